"""The trainer: `python -m train.sft CONFIG.yaml [a.b=c ...]`, or the same under torchrun."""

import gc
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from engine.build import available_bytes
from engine.command.flags import read_flags
from engine.errors import InputError, tell
from engine.hub_card import CARD
from engine.hub_upload import check_target, push_folder
from engine.model.checkpoint import read_tensors
from engine.one_writer import sole_writer
from train.architecture import Architecture
from train.card import Exported, write_cards
from train.checkpoint import Checkpoints
from train.config import TrainConfig, load_config
from train.data import Dataset, open_tokenizer, read_sets, step_samples, steps_per_epoch
from train.errors import RunFailed, TrainingError
from train.huggingface import KEPT, check_weights, export, find_config, initialize, kept_by_rounding, load_weights
from train.layout import Batch, StepLayout, build_batch, lay_out, target_weights
from train.lora import add_lora, export_adapter, merge
from train.metrics import Write, memory_gb, open_sinks, peak_flops
from train.model import Decoder
from train.optim import build_optimizer, gradient_norm, lr_at, set_lr
from train.parallel import DTYPES, World, join_world, leave_world, resolved, shard
from train.plan import plan_memory, plan_steps
from train.span import Span

# Compiled blocks see token counts that are multiples of this, hence few shapes.
COMPILED_MULTIPLE = 256


class Trainer:
    """A run: everything between the configuration and the last step."""

    def __init__(self, config: TrainConfig, world: World, initialize: Callable[..., None] = initialize):
        """`initialize` makes the weights that are not loaded (see train.huggingface)."""
        config = resolved(config, world.device)
        self.config, self.world, self.initialize = config, world, initialize
        self.run = Path(config.run)
        self.config_file = find_config(config.model)
        self.arch = Architecture.load(self.config_file)
        self.tokenizer = open_tokenizer(config.model, self.config_file)
        self.data, self.heldout = read_sets(config.data, self.tokenizer, self.arch.vocab_size)
        self.steps_per_epoch = steps_per_epoch(len(self.data), config.data)
        self.total_steps = config.epochs * self.steps_per_epoch
        self.require_memory()
        self.model = self.build_model()
        self.optimizer = build_optimizer(self.model, config.optim, world.device)
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.spans: tuple[Span, ...] = (Span.of(0, config),)
        """What the steps were trained with, for the card."""
        self.told_to_stop = False
        """This process got a SIGTERM or a Ctrl-C."""
        self.interrupted = False
        """It was a Ctrl-C."""
        self.stopping = False
        """Some rank was told to stop; all ranks learn it in the same step."""

    def require_memory(self) -> None:
        """Refuses, before anything is allocated, a run that the plan says will not fit."""
        available = self.config.compute.gpu_gb
        if available is None and self.world.device.type == "cuda":
            available = torch.cuda.get_device_properties(self.world.device).total_memory / 1e9
        steps = plan_steps(self.config, self.data.lengths, self.world.size)
        memory = plan_memory(self.config, self.arch, self.world.size, steps.largest_slice)
        if available is None:  # a CPU, whose activations the plan does not know
            state, free = memory.state * self.world.size, available_bytes() / 1e9
            if state > free:
                raise TrainingError(
                    f"{self.config_file} describes a model whose weights, gradients and optimiser take {state:.1f} GB, "
                    f"and {free:.1f} GB of this machine are free; train a smaller one, or adapters (lora)"
                )
            return
        if memory.total > available:
            raise TrainingError(
                f"the plan needs {memory.total:.1f} GB per GPU (state {memory.state:.1f}, activations "
                f"{memory.boundaries + memory.layer:.1f}), {available:.1f} GB are there; use more ranks, a smaller "
                "parallel.micro_tokens, checkpointing: full or adamw8bit (python -m train.plan shows the parts)"
            )

    def build_model(self) -> Decoder:
        compute, lora = self.config.compute, self.config.lora
        with torch.device("meta"):
            model = Decoder(self.arch, compute.checkpointing, compute.loss_chunk)
        # Frozen weights need no master copy.
        model.to(DTYPES[compute.master_dtype if lora is None else compute.dtype])
        if lora is not None:
            add_lora(model, lora, DTYPES[compute.master_dtype])
        if self.config.model.path:
            check_weights(model, self.config_file.parent)
        shard(model, self.world, compute)
        model.to_empty(device=self.world.device)
        if self.config.model.path:
            load_weights(model, self.config_file.parent)
        self.initialize(model, self.arch, self.config.seed, adapters_only=self.config.model.path is not None)
        return model

    def lay_out(self, data: Dataset, samples: np.ndarray) -> StepLayout:
        return lay_out(
            data.lengths[samples].tolist(),
            groups=self.world.groups,
            micro_limit=self.config.parallel.micro_tokens * self.world.context,
        )

    def batches(self, data: Dataset, samples: np.ndarray, weights: np.ndarray, layout: StepLayout) -> Iterator[Batch]:
        """This rank's micro-batches of `samples`; some may hold no sample, all ranks have equally many."""
        world = self.world
        cut = world.context, world.context_rank, COMPILED_MULTIPLE if self.config.compute.compile else 1
        for chosen in map(list, layout.micro[world.group]):
            yield build_batch(data, samples[chosen], weights[chosen], *cut).to(world.device)

    def backward(self, samples: np.ndarray, layout: StepLayout) -> torch.Tensor:
        """Adds the gradients of the step's loss; returns this rank's part of the loss, a float32 scalar."""
        loss = torch.zeros((), device=self.world.device)
        weights = target_weights(self.data.targets[samples], self.config.reduction)
        for batch in self.batches(self.data, samples, weights, layout):
            # Gradients are reduced after every micro-batch: the unsharded gradient of a 32B model fits no GPU.
            part = self.model(batch)
            part.backward()
            loss += part.detach()
        return loss

    def train_step(self, step: int) -> dict[str, Any]:
        """Optimiser step `step` (from 0). Raises TrainingError, before a weight changes, when it is not finite."""
        started = time.perf_counter()
        samples = step_samples(self.config.seed, step, len(self.data), self.config.data)
        ids = [self.data.ids[i] for i in samples]
        layout = self.lay_out(self.data, samples)
        loss = self.backward(samples, layout)
        norm = gradient_norm(self.trainable)
        # One transfer to the host per step: the loss, the norm, and whether a rank was told to stop.
        report = self.world.sum(torch.stack([loss, loss.new_full((), float(self.told_to_stop))]))
        loss_value, stop, norm_value = torch.cat([report, norm.reshape(1)]).tolist()
        if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
            raise RunFailed(
                f"step {step + 1}: loss {loss_value}, gradient norm {norm_value}; stopped before the weights changed. "
                f"Samples: {', '.join(ids)}. Lower optim.lr or look at these samples; the last checkpoint is intact"
            )
        self.stopping = stop > 0
        torch.nn.utils.clip_grads_with_norm_(self.trainable, self.config.optim.clip, norm)
        lr = lr_at(step, self.total_steps, self.config.optim)
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.world.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        tokens = sum(layout.lengths)
        peak = peak_flops(self.world.device)
        flops = self.arch.training_flops(list(layout.lengths), frozen=self.config.lora is not None)
        return {
            "step": step + 1,
            "epoch": step // self.steps_per_epoch,
            "loss": loss_value,
            "grad_norm": norm_value,
            "lr": lr,
            "samples": ids,
            "tokens": tokens,
            "targets": int(self.data.targets[samples].sum()),
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "mfu": flops / seconds / (peak * self.world.size) if peak else None,
            "imbalance": layout.imbalance,
            "micro_batches": layout.micro_batches,
            "memory_gb": memory_gb(self.world.device),
        }

    @torch.no_grad()
    def evaluate(self, data: Dataset) -> float:
        """Mean loss per target token over `data`."""
        loss = torch.zeros((), device=self.world.device)
        weights = np.full(len(data), 1.0 / data.targets.sum())
        for begin in range(0, len(data), self.config.data.batch_size):
            samples = np.arange(len(data))[begin : begin + self.config.data.batch_size]
            for batch in self.batches(data, samples, weights, self.lay_out(data, samples)):
                loss += self.model(batch)
        return float(self.world.sum(loss))

    def stop(self, number: int, *of_the_signal: object) -> None:
        self.told_to_stop = True
        if number == signal.SIGINT:
            self.interrupted = True
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C does not wait for the step

    def fit(self) -> bool:
        """Trains to the end, or to the step during which a SIGTERM or Ctrl-C came; either way a checkpoint is written.
        Returns whether it was the end. One trainer at a time has the run's folder: InputError names the other."""
        with sole_writer(self.run) if self.world.first else nullcontext():
            return self._fit()

    def _fit(self) -> bool:
        config, world = self.config, self.world
        checkpoints = Checkpoints(self.run / "checkpoints", config, world, self.arch, self.data.fingerprint)
        if not config.checkpoint.resume and checkpoints.latest() is not None:
            raise TrainingError(
                f"{self.run} already holds a run; set checkpoint.resume=true to go on, or another `run` folder"
            )
        start = checkpoints.load(self.model, self.optimizer, self.total_steps)
        if start == self.total_steps and self.is_exported(checkpoints):
            if world.first:
                print(f"{self.run / 'export'} is there already; nothing is left to train", file=sys.stderr)
            return True
        with ExitStack() as stack:
            sinks: list[Write] = []
            if world.first:
                config.save(self.run / "config.yaml")
                sinks = open_sinks(config, self.run, start, self.total_steps, stack)
                self.announce(start)
            for number in (signal.SIGTERM, signal.SIGINT):
                stack.callback(signal.signal, number, signal.signal(number, self.stop))
            saved = self.loop(start, checkpoints, sinks)
        if saved == self.total_steps:
            self.spans = checkpoints.spans
            self.export()
            if world.first:
                checkpoints.mark_exported(saved)
        elif world.first:
            print(
                f"stopped after step {saved} of {self.total_steps}; the same command goes on from there",
                file=sys.stderr,
            )
        return saved == self.total_steps

    def loop(self, start: int, checkpoints: Checkpoints, sinks: list[Write]) -> int:
        """Runs steps from `start` on; returns the step of the last checkpoint, which holds all that was done."""
        every = self.config.checkpoint.every or self.steps_per_epoch
        done = start
        if self.heldout is not None and start == 0:
            before = {"step": 0, "heldout_loss": self.evaluate(self.heldout)}
            for write in sinks:
                write(before)
        while done < self.total_steps and not self.stopping:
            record = self.train_step(done)
            done += 1
            last = done == self.total_steps
            if self.heldout is not None and (last or done % (self.config.heldout_every or every) == 0):
                record["heldout_loss"] = self.evaluate(self.heldout)
            if done % self.config.metrics.every == 0 or last or "heldout_loss" in record:
                for write in sinks:
                    write(record)
            checkpoints.finish(wait=False)
            if done % every == 0 or last or self.stopping:
                checkpoints.save(done, self.model, self.optimizer)
            if done == start + 3:
                # What exists now lives as long as the run; collections during a step would stall all ranks.
                gc.collect()
                gc.freeze()
        checkpoints.finish()
        return done

    def is_exported(self, checkpoints: Checkpoints) -> bool:
        """Whether the last step's model is there as asked, so that what its owner did to it stays."""
        folders = ["export", *(["adapter"] if self.config.lora is not None else [])]
        there = all((self.run / folder / CARD).is_file() for folder in folders)
        return there and checkpoints.exported == self.config.checkpoint.export_dtype

    def export(self) -> None:
        config, target = self.config, self.run / "export"
        if config.lora is not None:
            base = config.model.path or str(self.config_file)
            export_adapter(self.model, config.lora, self.run / "adapter", base, self.world.first)
        dtype, kept, note = self.export_dtype()
        tensors = self.model.state_dict() if config.lora is None else merge(self.model, dtype)
        tokenizer = Path(config.model.tokenizer or self.config_file.parent)
        export(tensors, target, self.config_file, dtype, tokenizer)
        if self.world.first:
            exported = Exported(self.total_steps, str(dtype).removeprefix("torch."), kept)
            write_cards(self.run, config, self.config_file, self.arch, self.data, self.heldout, exported, self.spans)
            print(f"wrote {target}{note}", file=sys.stderr)

    def export_dtype(self) -> tuple[torch.dtype, float | None, str]:
        """What the model is exported in, which share of what was learned bfloat16 keeps, where that was measured, and
        what is to be said of it."""
        asked = self.config.checkpoint.export_dtype
        if asked == "float32" or self.config.model.path is None:  # nothing was there before the run
            return DTYPES["bfloat16" if asked == "auto" else asked], None, ""
        stored = {tensor.dtype for tensor in read_tensors(self.config_file.parent).values() if len(tensor.shape) == 2}
        if asked == "auto" and "F32" in stored:  # rounding would take more than what was learned
            return torch.float32, None, " in float32, which the weights before the run are in"
        kept = kept_by_rounding(self.model, self.config_file.parent, torch.bfloat16)
        said = f"bfloat16 keeps {kept:.1%} of what was learned"
        if asked == "auto" and kept < KEPT:
            return torch.float32, kept, f" in float32: {said}"
        return torch.bfloat16, kept, f" in bfloat16, which keeps {kept:.1%} of what was learned"

    def announce(self, start: int) -> None:
        data = self.data
        dropped = f", {len(data.dropped)} dropped as longer than {self.config.data.max_tokens}" if data.dropped else ""
        print(
            f"{self.arch.num_parameters / 1e6:,.1f}M parameters · {len(data):,} samples, {int(data.offsets[-1]):,} "
            f"tokens ({int(data.targets.sum()):,} trained){dropped} · {self.steps_per_epoch} steps per epoch, "
            f"{self.total_steps} in all" + (f" · resuming after step {start}" if start else ""),
            file=sys.stderr,
        )
        if self.heldout is not None and (shared := self.heldout.of_which_in(data)):
            tell(f"{shared:,} of {len(self.heldout):,} held-out samples are trained on too, token by token", "warning")


@dataclass(frozen=True)
class Arguments:
    """A configuration, and where the result goes."""

    config: tyro.conf.Positional[Path]
    """Configuration (YAML); see train/config.py and train/recipes."""
    overrides: tyro.conf.Positional[tuple[str, ...]] = ()
    """section.name=value"""
    push_to_hub: str | None = None
    """OWNER/NAME: upload export/ as this model, to a private repository."""
    public: bool = False
    """Make that repository one that everybody sees."""


def main(argv: list[str] | None = None) -> int:
    """Train; returns the exit code: 0 done or stopped by SIGTERM, 1 the run or the upload failed, 2 input that cannot
    be used, 130 interrupted."""
    words = sys.argv[1:] if argv is None else argv
    try:
        arguments = read_flags(Arguments, words, "python -m train.sft", __doc__)
        check_target(arguments.push_to_hub, arguments.public)
        config = load_config(arguments.config, arguments.overrides)
        if config.compute.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not deterministic without
            torch.use_deterministic_algorithms(True)
        trainer = Trainer(config, join_world(config))
        finished = trainer.fit()
    except InputError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # one voice per machine
            tell(error, "train")
        return 1 if isinstance(error, RunFailed) else 2
    except OSError as error:  # of the run folder: full, read-only, gone
        tell(f"{error}; what is checkpointed is intact, run the same command when this is mended", "train")
        return 1
    except MemoryError:
        print("train: out of memory; what is checkpointed is intact, run the same command with more", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before the first step, behind the last, or for the second time
        print(
            "train: interrupted; what is checkpointed is intact, the same command goes on from there", file=sys.stderr
        )
        return 130
    first = trainer.world.first
    leave_world()
    if arguments.push_to_hub is not None and finished and first:
        command = ["python", "-m", "train.sft", *words]
        return push_folder(trainer.run / "export", arguments.push_to_hub, "model", arguments.public, command)
    return 130 if trainer.interrupted and not finished else 0


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # All is written and closed. Tearing the interpreter down would only let libraries report their own leaks.
    os._exit(code)
