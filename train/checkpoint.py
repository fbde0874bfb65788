"""Checkpoints that are either whole or ignored, and resume to the last bit.

A checkpoint is `checkpoints/step-00000063/`: PyTorch distributed-checkpoint shards, each written by the rank that owns
it, and `complete.json`, written last. A folder without it does not exist for `latest`. The data order, the schedule and
the layout are functions of the step, so weights, optimiser state and the step are all there is to save.
"""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
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
            "lora": msgspec.to_builtins(config.lora),
            "optimizer": config.optim.kind,
        }
        # With LoRA the frozen weights are those of model.path: only what is trained is saved.
        self._options = StateDictOptions(ignore_frozen_params=config.lora is not None, strict=config.lora is None)
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
            about = {"step": step, "world": self._world.size, **self._identity}
            write_whole(self.path(step) / MARKER, json.dumps(about, indent=2))
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

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Restores the newest complete checkpoint and returns its step; 0 when there is none.

        Raises TrainingError when it belongs to another model, other data or another order of samples.
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
