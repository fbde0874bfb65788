"""`python -m bench.train`: training speed of `train/`, beside the same run written with transformers' Trainer.

Random weights and random tokens of log-normal lengths: speed depends on shapes and lengths, not on what they say. Both
sides see the same samples in the same steps, in turn within each round, in one process; a figure is the median over all
steps but the first of each round. Tokens are real ones: padding counts as time, not as work.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml

from bench import checkpoints, record, shapes, stand_in, timing
from bench.command import Threaded, command
from train import architecture, huggingface, parallel, plan, sft
from train.config import load_config
from train.data import Dataset, step_samples

ALL_SHAPES = shapes.SHAPES | {
    "nano": shapes.Shape(
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
class Options(Threaded):
    """What is trained, on samples of which lengths, how, and beside what."""

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
    dtype: Literal["float32", "bfloat16"] = "bfloat16" if torch.cuda.is_available() or stand_in.card() else "float32"
    checkpointing: Literal["none", "selective", "full"] = "none"
    compile: bool = False
    settings: tuple[str, ...] = ()
    """Further `section.name=value` settings of the trainer."""


def write_run(options: Options, folder: Path) -> Path:
    """Shape, samples and configuration of the run, in `folder`."""
    shape = stand_in.shape(options.shape) if stand_in.card() else ALL_SHAPES[options.shape]
    layers = min(shape.num_layers, options.layers or shape.num_layers)
    (folder / "config.json").write_text(json.dumps(checkpoints.config_json(replace(shape, num_layers=layers))))
    rng = np.random.default_rng(0)
    mean = np.log(stand_in.tokens(options.mean_tokens)) - options.sigma**2 / 2
    lengths = rng.lognormal(mean, options.sigma, options.batch_size * (options.steps + 1)).round().astype(int)
    samples = [{"tokens": rng.integers(0, shape.vocab_size, max(2, length)).tolist()} for length in lengths]
    (folder / "data.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    (folder / "config.yaml").write_text(
        yaml.safe_dump(
            {
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
        )
    )
    return folder / "config.yaml"


def peer(options: Options, data: Dataset, folder: Path) -> Callable[[list[int]], list[float]]:
    """The same steps by transformers' Trainer: batches padded to their longest sample, its own defaults otherwise.
    Takes samples in their order, gives seconds of each optimiser step."""
    import transformers  # only --against transformers needs it

    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder)).float()

    def steps(order: list[int]) -> list[float]:
        ids = [torch.from_numpy(data.tokens[data.offsets[i] : data.offsets[i + 1]].astype(np.int64)) for i in order]
        times: list[float] = []

        class Clock(transformers.TrainerCallback):  # type: ignore[name-defined]
            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                times.append(time.perf_counter())

            on_train_end = on_step_begin

        arguments = transformers.TrainingArguments(
            output_dir=str(folder / "hf"),
            num_train_epochs=1,
            per_device_train_batch_size=options.batch_size,
            learning_rate=1e-5,
            adam_beta2=0.95,
            weight_decay=1e-4,
            max_grad_norm=1.0,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=options.device == "cpu",
            bf16=options.dtype == "bfloat16",
            gradient_checkpointing=options.checkpointing != "none",
            train_sampling_strategy="sequential",
        )
        transformers.Trainer(model, arguments, train_dataset=ids, data_collator=pad_batch, callbacks=[Clock()]).train()
        return np.diff(times).tolist()

    return steps


def pad_batch(ids: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Samples of token ids as one batch, padded on the right; padding carries no loss and is not attended to."""
    values = {
        "input_ids": (ids, 0),
        "labels": (ids, -100),
        "attention_mask": ([torch.ones_like(one) for one in ids], 0),
    }
    return {name: torch.nn.utils.rnn.pad_sequence(one, True, value) for name, (one, value) in values.items()}


@torch.no_grad()
def draw_on_device(
    model: torch.nn.Module, arch: architecture.Architecture, seed: int, adapters_only: bool = False
) -> None:
    """Random weights for whom it does not matter which: the CPU's generator takes a minute for 7B."""
    for parameter in model.parameters():
        parameter.normal_(0.0, arch.initializer_range)


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large square product in this process, best of several: what a CPU's share is measured against."""
    size = 256 if stand_in.card() is not None else 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / timing.repeat(lambda: a @ b, device, min_calls=3, cold=False).best


def main(options: Options) -> None:
    """Compare in a folder that is gone at the end."""
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        compare(options, Path(name))
    parallel.leave_world()


def compare(options: Options, folder: Path) -> None:
    """Train in `folder`, this engine and the other in turn; print and record what each took."""
    config = load_config(write_run(options, folder), options.settings)
    world, started = parallel.join_world(config), time.perf_counter()
    ours = sft.Trainer(config, world, draw_on_device if options.device == "cuda" else huggingface.initialize)
    theirs = peer(options, ours.data, folder) if options.against else None
    lengths, per_round = ours.data.lengths, ours.steps_per_epoch
    steps = range(options.rounds * per_round)
    orders = [step_samples(config.seed, step, len(lengths), config.data) for step in steps]
    seconds: dict[str, list[float]] = {"s1-engine": []}
    ratios, first = [], 0.0
    for begin in steps[::per_round]:
        _, *times = (ours.train_step(step)["seconds"] for step in range(begin, begin + per_round))
        first = first or time.perf_counter() - started - sum(times)
        seconds["s1-engine"] += times
        if theirs is not None:
            _, *others = theirs([int(i) for order in orders[begin : begin + per_round] for i in order])
            seconds.setdefault("transformers", []).extend(others)
            ratios.append(sum(others) / sum(times))
    mean = float(lengths.mean())
    flops = ours.arch.training_flops([int(n) for n in lengths], config.lora is not None) / len(lengths)
    peak = matmul_flops(world.device, torch.float32 if options.dtype == "float32" else torch.bfloat16)
    padded = float(np.mean([lengths[order].max() for order in orders[:per_round]])) / mean
    machine = record.Machine.read(torch.device(options.device))
    print(
        f"{ours.arch.num_parameters / 1e6:,.1f}M parameters, {options.batch_size} samples of {mean:.0f} tokens "
        f"(longest of a step / mean: {padded:.2f}), {options.threads} threads, matmul {peak / 1e9:,.0f} GFLOP/s"
    )
    own = {"first_step_s": first} | ({"times_transformers": statistics.median(ratios)} if ratios else {})
    if world.device.type == "cuda":
        most = plan.plan_steps(config, lengths, world.size).largest_slice
        own |= {
            "memory_GB": torch.cuda.max_memory_allocated() / 1e9,
            "planned_GB": plan.plan_memory(config, ours.arch, world.size, most).total,
        }
    for engine, times in seconds.items():
        step = statistics.median(times)
        figures = {
            "step_ms": 1e3 * step,
            "tokens_per_second": mean * options.batch_size / step,
            "share_of_matmul": flops * options.batch_size / step / peak,
            **(own if engine == "s1-engine" else {}),
        }
        print(f"{engine:14s} " + "  ".join(f"{name} {value:,.3g}" for name, value in figures.items()))
        machine.write(
            options.output,
            "train",
            {
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
            },
            figures,
        )


if __name__ == "__main__":
    command(Options, main)
