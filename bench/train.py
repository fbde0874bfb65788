"""`python -m bench.train`: training speed of `train/`, beside the same run written with transformers' Trainer.

Random weights and random tokens of log-normal lengths: speed depends on shapes and lengths, not on what they say. Both
sides see the same samples in the same steps, in turn within each round, in one process; a figure is the median over all
steps but the first of each round. Tokens are real ones: padding counts as time, not as work.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
import yaml

from bench import stand_in
from bench.record import Machine, append
from bench.shapes import SHAPES, Shape
from bench.timing import repeat
from train.architecture import Architecture
from train.config import load_config
from train.data import step_samples
from train.errors import TrainingError
from train.huggingface import initialize
from train.parallel import join_world, leave_world
from train.plan import plan_memory, plan_steps
from train.sft import Trainer

ALL_SHAPES = SHAPES | {
    "nano": Shape(
        hidden_size=192,
        num_layers=6,
        num_heads=6,
        num_kv_heads=2,
        head_dim=32,
        intermediate_size=512,
        vocab_size=512,
        tie_word_embeddings=True,
    ),
}
"""`nano`: 2.5M parameters, what two CPU cores train in minutes."""


@dataclass(frozen=True, kw_only=True)
class Options:
    shape: Literal["nano", "tiny", "40m", "qwen2.5-0.5b", "qwen2.5-7b", "qwen2.5-32b"] = "nano"
    layers: int | None = None
    """Fewer layers than the shape has, to measure a big model's layer on one GPU."""
    batch_size: int = 16
    mean_tokens: int = 160
    """Mean length of a sample."""
    sigma: float = 0.5
    """Of the logarithm of the lengths; 0: all alike, so that padding costs nothing."""
    steps: int = 10
    """Measured steps of a round."""
    rounds: int = 3
    against: tuple[Literal["transformers"], ...] = ()
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    dtype: Literal["float32", "bfloat16"] = "bfloat16" if torch.cuda.is_available() or stand_in.card() else "float32"
    checkpointing: Literal["none", "selective", "full"] = "none"
    compile: bool = False
    settings: tuple[str, ...] = ()
    """Further `section.name=value` settings of the trainer."""
    threads: int = torch.get_num_threads()
    output: Path | None = None
    """A file of JSON lines to append the results to."""


def write_run(options: Options, folder: Path) -> Path:
    """Shape, samples and configuration of the run, in `folder`."""
    shape = asdict(stand_in.shape(options.shape) if stand_in.card() else ALL_SHAPES[options.shape])
    layers = shape.pop("num_layers")
    shape["num_hidden_layers"] = min(layers, options.layers or layers)
    names = {"num_heads": "num_attention_heads", "num_kv_heads": "num_key_value_heads"}
    config = {"model_type": "qwen2"} | {names.get(name, name): value for name, value in shape.items()}
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)
    count = options.batch_size * (options.steps + 1)
    mean = stand_in.tokens(options.mean_tokens)
    lengths = rng.lognormal(np.log(mean) - options.sigma**2 / 2, options.sigma, count)
    with (folder / "data.jsonl").open("w") as file:
        for length in np.maximum(lengths.round().astype(int), 2):
            file.write(json.dumps({"tokens": rng.integers(0, config["vocab_size"], length).tolist()}) + "\n")
    settings = {
        "run": str(folder / "run"),
        "model": {"init": str(folder / "config.json")},
        "data": {"train": [str(folder / "data.jsonl")], "loss": "all", "batch_size": options.batch_size},
        "epochs": options.rounds,
        "reduction": "token_mean",
        "compute": {
            "device": stand_in.device(options.device).type,
            "dtype": options.dtype,
            "checkpointing": options.checkpointing,
            "compile": options.compile,
        },
        "metrics": {"progress": False},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder / "config.yaml"


class Peer:
    """The same steps by transformers' Trainer: batches padded to their longest sample, its own defaults otherwise."""

    def __init__(self, options: Options, ours: Trainer, folder: Path):
        # Imported here: only --against transformers needs it.
        import transformers

        self._library, self._options, self._folder = transformers, options, folder
        config = transformers.AutoConfig.from_pretrained(folder)
        self._model = transformers.AutoModelForCausalLM.from_config(config).float()
        self._data = ours.data

    def steps(self, order: list[int]) -> list[float]:
        """Seconds of each optimiser step over samples `order`."""
        data, transformers = self._data, self._library
        tokens = [torch.from_numpy(data.tokens[data.offsets[i] : data.offsets[i + 1]].astype(np.int64)) for i in order]
        samples = [{"input_ids": t, "labels": t} for t in tokens]
        times: list[float] = []

        class Clock(transformers.TrainerCallback):  # type: ignore[name-defined]
            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                times.append(time.perf_counter())

            def on_train_end(self, *args: Any, **kwargs: Any) -> None:
                times.append(time.perf_counter())

        arguments = transformers.TrainingArguments(
            output_dir=str(self._folder / "hf"),
            num_train_epochs=1,
            per_device_train_batch_size=self._options.batch_size,
            learning_rate=1e-5,
            adam_beta2=0.95,
            weight_decay=1e-4,
            max_grad_norm=1.0,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=self._options.device == "cpu",
            bf16=self._options.dtype == "bfloat16",
            gradient_checkpointing=self._options.checkpointing != "none",
            train_sampling_strategy="sequential",
        )
        trainer = transformers.Trainer(
            self._model, arguments, train_dataset=samples, data_collator=pad_batch, callbacks=[Clock()]
        )
        trainer.train()
        return [b - a for a, b in pairwise(times)]


def pad_batch(samples: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    pad = torch.nn.utils.rnn.pad_sequence
    ids = [s["input_ids"] for s in samples]
    return {
        "input_ids": pad(ids, batch_first=True),
        "labels": pad([s["labels"] for s in samples], batch_first=True, padding_value=-100),
        "attention_mask": pad([torch.ones_like(i) for i in ids], batch_first=True),
    }


@torch.no_grad()
def draw_on_device(model: torch.nn.Module, arch: Architecture, seed: int, adapters_only: bool = False) -> None:
    """Random weights for whom it does not matter which: the CPU's generator takes a minute for 7B."""
    for parameter in model.parameters():
        parameter.normal_(0.0, arch.initializer_range)


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square product in this process, best of several: what a CPU's share is measured against."""
    size = 256 if stand_in.card() is not None else 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / repeat(lambda: a @ b, device, min_calls=3, cold=False).best


def main(options: Options) -> None:
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = load_config(write_run(options, folder), options.settings)
        world = join_world(config)
        started = time.perf_counter()
        large = world.device.type == "cuda" or stand_in.card() is not None
        ours = Trainer(config, world, draw_on_device if large else initialize)
        peer = Peer(options, ours, folder) if options.against else None
        seconds: dict[str, list[float]] = {"s1-engine": [], "transformers": []}
        ratios, first = [], None
        per_round = ours.steps_per_epoch
        for round_ in range(options.rounds):
            steps = range(round_ * per_round, (round_ + 1) * per_round)
            times = [ours.train_step(step)["seconds"] for step in steps]
            first = first or time.perf_counter() - started - sum(times[1:])
            seconds["s1-engine"] += times[1:]
            if peer is not None:
                order = [int(i) for s in steps for i in step_samples(config.seed, s, len(ours.data), config.data)]
                theirs = peer.steps(order)
                seconds["transformers"] += theirs[1:]
                ratios.append(sum(theirs[1:]) / sum(times[1:]))
        lengths = ours.data.lengths
        tokens = float(lengths.mean()) * options.batch_size
        frozen = config.lora is not None
        flops = ours.arch.training_flops([int(n) for n in lengths], frozen) / len(lengths) * options.batch_size
        peak = matmul_flops(world.device, torch.float32 if options.dtype == "float32" else torch.bfloat16)
        plan = plan_memory(config, ours.arch, world.size, plan_steps(config, lengths, world.size).largest_slice)
        padded = float(
            np.mean([lengths[step_samples(config.seed, s, len(lengths), config.data)].max() for s in range(per_round)])
        ) / float(lengths.mean())
        machine = Machine.read(torch.device(options.device))
        print(
            f"{ours.arch.parameters / 1e6:,.1f}M parameters, {options.batch_size} samples of "
            f"{lengths.mean():.0f} tokens "
            f"(longest of a step / mean: {padded:.2f}), {options.threads} threads, matmul {peak / 1e9:,.0f} GFLOP/s"
        )
        for engine, times in seconds.items():
            if not times:
                continue
            step = statistics.median(times)
            figures: dict[str, float | None] = {
                "step_ms": 1e3 * step,
                "tokens_per_second": tokens / step,
                "share_of_matmul": flops / step / peak,
            }
            if engine == "s1-engine":
                figures["first_step_s"] = first
                if world.device.type == "cuda":
                    figures |= {"memory_GB": torch.cuda.max_memory_allocated() / 1e9, "planned_GB": plan.total}
            if engine == "s1-engine" and ratios:
                figures["times_transformers"] = statistics.median(ratios)
            case = {
                "engine": engine,
                "shape": options.shape,
                "batch_size": options.batch_size,
                "compile": options.compile,
                "mean_tokens": options.mean_tokens,
                "sigma": options.sigma,
                "padding": padded,
                "dtype": options.dtype,
                "layers": options.layers,
                "checkpointing": options.checkpointing,
                "lora": None if config.lora is None else config.lora.rank,
            }
            print(f"{engine:14s} " + "  ".join(f"{k} {v:,.3g}" for k, v in figures.items() if v is not None))
            if options.output is not None:
                append(machine.record("train", case, figures), options.output)
        leave_world()


if __name__ == "__main__":
    try:
        main(tyro.cli(Options, description=__doc__))
    except TrainingError as error:
        sys.exit(f"bench.train: {error}")
