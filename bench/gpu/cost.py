"""What the parts of a GPU day should take, by a clock that is simulated: published rates, and assumptions with a name.

`bench.decode` runs its own loop, with engines that only add up what prefill and steps would take: so a change that
makes a cell prefill twice shows here. The other parts are counted from their own options.
"""

from collections.abc import Callable
from dataclasses import asdict
from itertools import accumulate, product
from typing import Any, cast

import torch
import tyro

from bench import budgets, command, compile, correctness, decode, gemm, kernels, prefill, profile, shapes, train
from bench.gpu.plan import Part
from bench.peers.worker import Worker
from engine.model.rope import Rope
from engine.step.graphs import buckets_for
from kernels.limits import Device, Limits
from train.architecture import Architecture

START = 14.0
"""Seconds until a process has imported torch and made a CUDA context, on a machine whose disk is cold."""
DECODE, PREFILL, TRAIN = 0.7, 0.4, 0.35
"""Shares of the limit that are assumed: of bandwidth, of the matrix rate, of the peak."""
DRAW = 4.0
"""Seconds to make random weights of the 32B shape on the device; quantised ones need a few passes more."""
COMPILE = 0.7
"""Seconds for one kernel."""
CORES = 16
SMALL_STEP = 1.5e-3
"""Seconds of a decode step of a model so small that launches are all that counts."""


class SimulatedWorker:
    """An engine in whose place a clock runs. Prompts that it has seen are in its prefix cache, if it has one."""

    def __init__(self, name: str, limits: Limits) -> None:
        self.name, self._limits, self.seconds = name, limits, 0.0
        self._seen: set[int] = set()

    def _take(self, ids: list[list[int]], steps: int) -> None:
        new = [prompt for prompt in ids if self.name != "engine" or hash(tuple(prompt)) not in self._seen]
        self._seen |= {hash(tuple(prompt)) for prompt in new}
        step = max(self._limits.step_seconds(len(ids), len(ids[0])) / DECODE, SMALL_STEP)
        self.seconds += sum(self._limits.prefill_seconds(len(prompt)) for prompt in new) / PREFILL + steps * step

    def window(self, ids: list[list[int]], steps: int, ahead: int, **_: Any) -> tuple[list[float], float]:
        self._take(ids, steps + 1)
        return [1.0] * steps, float(len(ids) * len(ids[0]))

    def run(self, ids: list[list[int]], tokens: int, **_: Any) -> float:
        self._take(ids, tokens)
        return float(tokens)


def decode_seconds(options: decode.Options, card: Device) -> float:
    """`bench.decode`: every engine in turn, each cell by the benchmark's own loop."""
    total = START  # the command itself, which makes the prompts
    ours, plain = decode.limits_of(options, shapes.SHAPES[options.shape], card)
    for name in ("engine", *options.against):
        limits, passes, starts = plain, 1, 90.0  # transformers compiles its step, for each batch anew
        if name == "engine":
            limits, passes = ours, 1 if options.quantization == "none" else 4
            captured = 2 * 3 * len(buckets_for(max(case.batch for case in options.cases)))
            starts = captured * max(limits.step_seconds(1, 1) / DECODE, SMALL_STEP)
        worker = SimulatedWorker(name, limits)
        budgets = (None, *(options.budget if name == "engine" else ()))
        lanes = [decode.Lane(cast(Worker, worker), name, budget) for budget in budgets]
        for case in options.cases:
            if limits.resident_sequences(case.most_tokens(options.tokens)) < case.batch:
                raise ValueError(f"{case} does not fit beside {options.shape} on {card.name}")
            decode.measure(case, lanes, decode.prompts(case, 1000, []), options.tokens, options.rounds)
        total += START + DRAW * limits.resident_bytes / 65.5e9 * passes + starts + worker.seconds
    return total


def correctness_seconds(options: correctness.Options, card: Device) -> float:
    """`bench.correctness`."""
    parts = {
        # Four engines; definitions: a dozen torch calls for each of ours.
        "tokens": 10 + START + 20 if options.only else 4 * 10 + 3 * (START + 20),
        "training": 5.0,
        "operators": 2 * START + 80 * COMPILE / options.workers * 1.5,  # the largest of the files, side by side
    }
    return START + sum(parts[name] for name in options.parts)


def gemm_seconds(options: gemm.Options, card: Device) -> float:
    """`bench.gemm`: every candidate once its result is right, then two dependent launches, which are compiled now."""
    races = product(gemm.linears(shapes.SHAPES[options.shape], options.ranks), options.tokens)
    tried = (len(list(gemm.candidates(*race, gemm.WEIGHTS[options.weights]))) for race in races)
    return START + sum((count + 4) * 0.1 + 2 * COMPILE + 0.5 for count in tried)


def prefill_seconds(options: prefill.Options, card: Device) -> float:
    """`bench.prefill`: a warm-up and the rounds for every context."""
    each = sum(map(Limits(shapes.SHAPES[options.shape], card).prefill_seconds, options.context)) / PREFILL
    return START + (DRAW if options.dummy else 15) + (options.rounds + 1) * each


def profile_seconds(options: profile.Options, card: Device) -> float:
    """`bench.profile`: prefill, all steps without the profiler and with it, and its own work."""
    limits = Limits(shapes.SHAPES[options.shape], card)
    return (
        START
        + DRAW
        + sum(
            case.batch * limits.prefill_seconds(case.context) / PREFILL
            + 10
            + 2 * (case.ahead + options.steps) * limits.step_seconds(case.batch, case.context) / DECODE
            for case in decode.Case.read(options.cells)
        )
    )


def train_seconds(options: train.Options, card: Device) -> float:
    """`bench.train`: all steps, and as much again for the first, in which libraries choose."""
    shape = train.ALL_SHAPES[options.shape]
    sizes = asdict(shape) | {"num_layers": options.layers or shape.num_layers}
    del sizes["rope_theta"]
    arch = Architecture(**sizes, model_type="qwen2", rope=Rope(), dtype=torch.bfloat16)
    assert card.peak_flops is not None
    frozen = any(setting.startswith("lora=") for setting in options.settings)
    flops = arch.training_flops([options.mean_tokens] * options.batch_size, frozen)
    flops *= {"none": 1.0, "selective": 1.15, "full": 1.33}[options.checkpointing]
    return START + 15 + ((options.steps + 1) * options.rounds + 2) * (flops / card.peak_flops / TRAIN + 0.1)


def budgets_seconds(options: budgets.Options, card: Device) -> float:
    """`bench.budgets`: both ways, with and without the prefix cache, then the mixed batch."""
    run = max(options.budget) * SMALL_STEP
    return (
        START + 10 + 2 * (options.rounds + 2) * (1 + 1.6) * run + 2 * run
    )  # the client's took 1.6 times ours on a CPU


_COSTS: dict[str, tuple[Any, Callable[[Any, Device], float]]] = {
    "bench.decode": (decode.Options, decode_seconds),
    # about fifteen kernels a job, shared by the cores, some of which the last jobs leave idle
    "bench.compile": (
        compile.Options,
        lambda options, card: START + 10 + 15 * len(compile.jobs(options)) * COMPILE / CORES * 2,
    ),
    "bench.ceilings": (command.Threaded, lambda options, card: START + 4),  # four kinds of repeated calls
    "bench.correctness": (correctness.Options, correctness_seconds),
    # some fourteen operators and an attention for each batch and context
    "bench.kernels": (
        kernels.Options,
        lambda options, card: START + len(options.batch) * (14 + 1.3 * len(options.context)) * 0.35 + 8 * COMPILE,
    ),
    "bench.gemm": (gemm.Options, gemm_seconds),
    "bench.prefill": (prefill.Options, prefill_seconds),
    "bench.profile": (profile.Options, profile_seconds),
    "bench.train": (train.Options, train_seconds),
    "bench.budgets": (budgets.Options, budgets_seconds),
}


def options_of(part: Part) -> Any:
    """A part's arguments, read by its module's own parser."""
    return tyro.cli(_COSTS[part.module][0], args=[*part.arguments, "--output", "{out}/results.jsonl"])


def seconds(part: Part, card: Device) -> float:
    """What `part` should take on `card`. Raises ValueError where a cell of it does not fit."""
    return _COSTS[part.module][1](options_of(part), card)


def table(parts: tuple[Part, ...], card: Device) -> str:
    """Markdown, minute by minute: when each part should begin, what it should take, its limit, what it brings."""
    takes = [seconds(part, card) for part in parts]
    *begins, end = accumulate(takes, initial=0.0)
    rows = (
        f"| {begin / 60:.1f} | `{part.name}` | {took:.0f} | {part.limit:.0f} | {part.brings} |"
        for part, took, begin in zip(parts, takes, begins, strict=True)
    )
    return "\n".join(
        [
            "| minute | part | takes, s | limit, s | brings |",
            "|---|---|---|---|---|",
            *rows,
            f"| {end / 60:.1f} | | {end:.0f} | | |",
        ]
    )
