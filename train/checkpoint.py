"""Checkpoints that are either whole or ignored, and resume to the last bit.

A checkpoint is `checkpoints/step-00000063/`: PyTorch distributed-checkpoint shards, each written by the rank that owns
it, and `complete.json`, written last. A folder without it does not exist for `latest`. The data order, the schedule and
the layout are functions of the step, so weights, optimiser state and the step are all there is to save.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from msgspec import ValidationError, convert, to_builtins
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from engine.errors import shown
from engine.json_file import read_object
from engine.whole_file import write_whole
from train.architecture import Architecture
from train.config import TrainConfig
from train.errors import RunFailed, TrainingError
from train.huggingface import failure
from train.parallel import World
from train.span import Span

MARKER = "complete.json"


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, folder: Path, config: TrainConfig, world: World, arch: Architecture, data_fingerprint: str):
        self._folder, self._config, self._world = folder, config, world
        self._identity = {
            "architecture": arch.identity,
            "data": data_fingerprint,
            "seed": config.seed,
            "batch_size": config.data.batch_size,
            "last_batch": config.data.last_batch,
            "reduction": config.reduction,
            "lora": to_builtins(config.lora),
            "optimizer": config.optim.kind,
        }
        # With LoRA the frozen weights are those of model.path: only what is trained is saved.
        self._options = StateDictOptions(ignore_frozen_params=config.lora is not None, strict=config.lora is None)
        self.spans: tuple[Span, ...] = (Span.of(0, config),)
        """What the steps so far were trained with, in their order."""
        self.exported: str | None = None
        """checkpoint.export_dtype of the export of the last step, once it is there."""
        self._pending: tuple[int, Future[Any]] | None = None
        # A group of its own: an asynchronous save must not mix its messages with the next step's.
        self._group = world.host_group() if config.checkpoint.asynchronous else None

    def path(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}"

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint, or None."""
        names = (marker.parent.name.removeprefix("step-") for marker in self._folder.glob(f"step-*/{MARKER}"))
        return max((int(name) for name in names if name.isascii() and name.isdigit()), default=None)

    def _state(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return dict(zip(("model", "optim"), get_state_dict(model, optimizer, options=self._options), strict=True))

    def save(self, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Writes a checkpoint; with `asynchronous` it returns once the state is copied to the host."""
        self.finish()
        path = self.path(step)
        if self._world.first:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        dist.barrier()
        state = self._state(model, optimizer)
        if self._config.checkpoint.asynchronous:
            future = dcp.async_save(state, checkpoint_id=str(path), process_group=self._group)
            assert isinstance(future, Future)  # the other kind is for staging apart, which was not asked for
            self._pending = (step, future)
        else:
            self._finish(step, lambda: dcp.save(state, checkpoint_id=str(path)))

    def finish(self, wait: bool = True) -> None:
        """Finishes the asynchronous save, if one is under way, and done or `wait`; TrainingError tells a failure."""
        if self._pending is not None and (wait or self._pending[1].done()):
            (step, future), self._pending = self._pending, None
            self._finish(step, future.result)

    def _finish(self, step: int, write: Callable[[], Any]) -> None:
        """Ends the writing of a checkpoint, marks it as whole and removes old ones."""
        try:
            write()
            if not self._world.first:
                return
            self._mark(step)
            for old in sorted(self._folder.glob(f"step-*/{MARKER}"))[: -self._config.checkpoint.keep]:
                old.unlink()  # first: a half-deleted checkpoint must not look whole
                shutil.rmtree(old.parent)
        except (OSError, dcp.api.CheckpointException) as error:
            reason = failure(error, self._folder)
            if self._world.first:
                shutil.rmtree(self.path(step), ignore_errors=True)
            kept = self.latest()
            last = f"the checkpoint of step {kept} is intact" if kept is not None else "there is no earlier checkpoint"
            raise RunFailed(
                f"saving step {step} to {self._folder} failed: {reason}; {last}; make room and run the same command"
            ) from error

    def _mark(self, step: int, **more: str) -> None:
        about = {"step": step, "world": self._world.size, **self._identity, "spans": to_builtins(self.spans), **more}
        write_whole(self.path(step) / MARKER, json.dumps(about, indent=2))

    def mark_exported(self, step: int) -> None:
        """Notes, on the first rank, that the model of the last step has been exported."""
        self._mark(step, exported=self._config.checkpoint.export_dtype)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, total: int) -> int:
        """Restores the newest complete checkpoint and returns its step; 0 when there is none.

        Raises TrainingError when it belongs to another model, other data or another order of samples, when it is of
        more than `total` steps, and when it is of so many, made with other settings.
        """
        step = self.latest()
        if step is None:
            return 0
        path = self.path(step)
        marker = read_object(path / MARKER)
        for name, mine in json.loads(json.dumps(self._identity)).items():
            if marker.get(name) != mine:
                detail = f"{name} was {shown(marker.get(name))}, is {shown(mine)}"
                if name == "architecture":
                    found = marker.get(name)
                    theirs = found if isinstance(found, dict) else {}
                    wrong = next(k for k in mine | theirs if theirs.get(k) != mine.get(k))
                    detail = (
                        f"it is of another model: {wrong} was {shown(theirs.get(wrong))}, is {shown(mine.get(wrong))}"
                    )
                raise TrainingError(
                    f"{path} does not belong to this run: {detail}; use another `run` folder or restore the setting"
                )
        if step > total:
            raise TrainingError(
                f"{self._folder.parent} was trained for {step} steps, more than the {total} of this configuration; "
                "raise `epochs` or use another `run` folder"
            )
        self._take_over(marker, path, step, total)
        state = self._state(model, optimizer)
        try:
            dcp.load(state, checkpoint_id=str(path))
        except (Exception, dcp.api.CheckpointException) as error:  # a torn shard ends in whatever torch meets first
            raise TrainingError(
                f"{path} cannot be read: {failure(error, path)}; remove that folder, and the same command goes on from "
                "the checkpoint before it"
            ) from error
        set_state_dict(
            model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optim"], options=self._options
        )
        return step

    def _take_over(self, marker: Mapping[str, Any], path: Path, step: int, total: int) -> None:
        """What the steps before were trained with. Raises TrainingError where nothing is left to train with others."""
        try:
            spans = convert(marker.get("spans", []), tuple[Span, ...])
            made = [self._config, *(span.applied(self._config) for span in spans)][-1]
        except (ValidationError, LookupError, TypeError) as error:
            raise TrainingError(f"{path / MARKER}: its spans are damaged; remove {path}") from error
        changed = {"epochs": (made.epochs, self._config.epochs)}
        changed |= {
            f"optim.{name}": (getattr(made.optim, name), getattr(self._config.optim, name))
            for name in made.optim.__struct_fields__
        }
        name, (was, now) = next(((n, v) for n, v in changed.items() if v[0] != v[1]), ("", (None, None)))
        if step == total and name:
            raise TrainingError(
                f"{path} is the last step, and was trained with {name} = {shown(was)}, not {shown(now)}; use another "
                "`run` folder or restore the setting"
            )
        if not spans or (step < total and made != self._config):
            spans = (*spans, Span.of(step, self._config))
        self.spans = spans
        self.exported = marker.get("exported")
