"""`python -m bench.decode`: decode speed of this engine, beside its limit and beside peers, on random weights.

Every engine runs in a process of its own with the same checkpoint, prompts (token ids), token counts and threads, in
turn within each round. A step's time is the difference of a long and a short run over the difference of their tokens,
so prefill and start-up cancel; a figure is the median over the rounds, a ratio the median of the rounds' ratios.
With `--budget`, this engine runs once more in every round with budgets and extensions in half of the requests.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from bench import ceilings, record
from bench.checkpoints import checkpoint
from bench.peers.worker import Setup, Worker
from bench.shapes import SHAPES
from engine.errors import InputError
from engine.model_config import ModelConfig
from engine.text import Tokenizer
from kernels.limits import Limits

OURS, UNQUANTIZED = "s1-engine", "s1-engine, unquantized"
SHORT = 8
"""Tokens of the short run."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to run. Each batch is run at each context."""

    model: str | None = None
    """Checkpoint directory; without one, random weights of `shape` are made in `cache`."""
    shape: Literal["tiny", "40m", "qwen2.5-0.5b", "qwen2.5-7b", "qwen2.5-32b"] = "40m"
    dummy: bool = False
    """Make the random weights on the device instead of writing and reading a checkpoint."""
    batch: tuple[int, ...] = (1, 8)
    context: tuple[int, ...] = (128,)
    """Tokens of each prompt."""
    budget: tuple[int, ...] = ()
    """Thinking budgets to run with, two extensions each, in half of the requests."""
    tokens: int = 64
    """Tokens by which the long run is longer than the short one."""
    rounds: int = 5
    against: tuple[Literal["transformers", "vllm", "unquantized"], ...] = ()
    """Peers; `unquantized` is this engine with its weights and cache in `dtype`."""
    peer_python: str | None = None
    """The interpreter that has vLLM."""
    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    quantization: Literal["none", "int8", "fp8"] = "none"
    """The engine's weights in 8 bits; peers run in `dtype`."""
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"
    threads: int = torch.get_num_threads()
    cache: Path = Path(tempfile.gettempdir()) / "s1-engine-bench"
    """Where random checkpoints are kept from run to run."""
    output: Path | None = None
    """A file of JSON lines to append the results to."""
    resume: bool = False
    """Leave out what `output` has already."""

    def __post_init__(self) -> None:
        if "vllm" in self.against and self.peer_python is None:
            raise InputError("--against vllm needs --peer-python, the interpreter of an environment with vLLM")
        if "unquantized" in self.against and (self.quantization, self.kv_cache_dtype) == ("none", "auto"):
            raise InputError("--against unquantized needs --quantization or --kv-cache-dtype")
        if min((*self.batch, *self.context, self.tokens, self.rounds, self.threads)) < 1 or min((*self.budget, 0)) < 0:
            raise InputError("batch, context, tokens, rounds and threads start at 1, budgets at 0")
        if self.resume and self.output is None:
            raise InputError("--resume needs --output, the file whose results are kept")


@dataclass(frozen=True)
class Case:
    """One cell of the grid; `context` is the prompt's length."""

    batch: int
    context: int


@dataclass(frozen=True)
class Lane:
    """One way to run a case: an engine, and the budget in half of its requests (None: no thinking)."""

    worker: Worker
    budget: int | None = None
    unquantized: bool = False

    @property
    def name(self) -> str:
        if self.worker.name != "engine":
            return self.worker.name
        return UNQUANTIZED if self.unquantized else OURS

    @property
    def label(self) -> str:
        return self.name if self.budget is None else f"{self.name}, budget {self.budget}"

    def run(self, ids: list[list[int]], tokens: int) -> float:
        """Seconds to continue every prompt by `tokens`."""
        if self.budget is None:
            return self.worker.run(ids, tokens)
        off = {"thinking_format": "none"}
        # no reserve: the short run has no room for one, and never reaches the budget
        on = {"thinking_format": "s1", "thinking_token_budget": self.budget, "thinking_extensions": 2,
              "thinking_end_str": "<|im_start|>answer", "answer_reserve_tokens": 0}  # fmt: skip
        return self.worker.run(ids, tokens, params=[off if i % 2 else on for i in range(len(ids))])


@dataclass(frozen=True)
class Measured:
    """Seconds per step by lane, a value for every round; all lanes have as many."""

    case: Case
    step_seconds: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def median(self, label: str) -> float:
        return statistics.median(self.step_seconds[label])

    def ratio(self, label: str, base: str = OURS) -> float:
        """How many times `base` is as fast as `label`."""
        pairs = zip(self.step_seconds[label], self.step_seconds[base], strict=True)
        return statistics.median(theirs / ours for theirs, ours in pairs)


def step_seconds(short: float, long: float, tokens: int) -> float:
    """Seconds per step from a short run and one that is longer by `tokens` steps. Raises ValueError where noise won."""
    if long <= short:
        raise ValueError(f"the long run took {long:.4f} s and the short one {short:.4f} s; raise --tokens")
    return (long - short) / tokens


def prompts(case: Case, vocab: int, opener: list[int], seed: int = 0) -> list[list[int]]:
    """`batch` lists of `context` random ids, the last of which are the opener."""
    source = random.Random(seed)
    length = max(1, case.context - len(opener))
    return [[source.randrange(vocab) for _ in range(length)] + opener for _ in range(case.batch)]


def measure(case: Case, lanes: list[Lane], ids: list[list[int]], tokens: int, rounds: int) -> Measured:
    """Time every lane `rounds` times, in an order that turns, after a warm-up of the short run."""
    seconds: dict[str, list[float]] = {lane.label: [] for lane in lanes}
    for lane in lanes:
        lane.run(ids, SHORT)
    for turn in range(rounds):
        for lane in lanes if turn % 2 == 0 else reversed(lanes):
            seconds[lane.label].append(_one(lane, ids, tokens))
    return Measured(case, seconds)


def _one(lane: Lane, ids: list[list[int]], tokens: int, tries: int = 3) -> float:
    """Seconds per step, once; again where something else on the machine stretched the short run beyond the long."""
    short = long = 0.0
    for _ in range(tries):
        short, long = lane.run(ids, SHORT), lane.run(ids, SHORT + tokens)
        if long > short:
            break
    return step_seconds(short, long, tokens)


def figures(case: Case, step: float, limits: Limits, tokens: int) -> dict[str, float | None]:
    """ms per step, tok/s per user and in all, GB/s, and the share of the measured bandwidth that this is."""
    context = case.context + SHORT + tokens // 2
    needed = limits.step_bytes(case.batch, context)
    return {
        "step_ms": step * 1e3,
        "tok_s_user": 1 / step,
        "tok_s_total": case.batch / step,
        "GBps": needed / step / 1e9,
        "bandwidth_share": needed / step / limits.device.bandwidth,
        "limit_ms": limits.step_seconds(case.batch, context) * 1e3,
    }


class Run:
    """One invocation: the options, what follows from them, and the records so far."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options, self._console = options, console
        torch.set_num_threads(options.threads)
        self._device = torch.device(options.device)
        self._name: str = options.shape if options.model is None else Path(options.model).name
        if options.model is None:
            self._folder = checkpoint(options.cache, SHAPES[options.shape], weights=not options.dummy)
        else:
            self._folder = Path(options.model)
        self._model = ModelConfig.load(self._folder)
        self._ceilings = ceilings.measure(self._device)
        itemsize = getattr(torch, options.dtype).itemsize
        rates = self._ceilings.limits_of(self._device)
        self._plain = Limits(self._model, rates, weight_bytes=itemsize, kv_bytes=itemsize, head_bytes=itemsize)
        self._limits = replace(
            self._plain, weight_bytes=itemsize if options.quantization == "none" else 1,
            kv_bytes=itemsize if options.kv_cache_dtype == "auto" else 1,
            head_bytes=1 if options.quantization == "int8" else itemsize,
        )  # fmt: skip
        self._known = _known(options)
        self.records: list[record.Record] = []

    def all(self) -> list[record.Record]:
        """Every case, in order; a table and a record for each lane as it is done."""
        options = self._options
        cases = [case for case in _cases(options) if not self._is_known(case)]
        if not cases:
            return self.records
        setup = Setup(
            checkpoint=str(self._folder), dtype=options.dtype, device=options.device, threads=options.threads,
            max_model_len=max(options.context) + SHORT + options.tokens + 1, max_num_seqs=max(options.batch),
            dummy=options.dummy, engine=self._eight_bits,
        )  # fmt: skip
        opener = Tokenizer.load(self._folder).encode("<|im_start|>think", specials=True)
        with ExitStack() as stack:
            lanes = self._start(setup, stack)
            machine = record.Machine.read(self._device, {lane.name: lane.worker.version for lane in lanes})
            for case in cases:
                if self._limits.resident_sequences(case.context + SHORT + options.tokens) < case.batch:
                    self._console.print(f"batch {case.batch}, context {case.context:,}: does not fit in memory")
                    for lane in lanes:
                        self._write(machine, case, lane.name, lane.budget, {"step_ms": None})
                else:
                    ids = prompts(case, self._model.vocab_size - 3, opener)
                    self._judge_by_now()
                    self._report(machine, measure(case, lanes, ids, options.tokens, options.rounds), lanes)
        return self.records

    def _judge_by_now(self) -> None:
        """On a CPU, whose bandwidth drifts, every case is judged by the ceilings measured right before it."""
        if self._device.type == "cpu":
            self._ceilings = ceilings.later(self._ceilings, self._device)
            now = self._ceilings.limits_of(self._device)
            self._limits, self._plain = replace(self._limits, device=now), replace(self._plain, device=now)

    @property
    def _eight_bits(self) -> dict[str, str]:
        options = self._options
        chosen = {"quantization": (options.quantization, "none"), "kv_cache_dtype": (options.kv_cache_dtype, "auto")}
        return {name: value for name, (value, default) in chosen.items() if value != default}

    def _is_known(self, case: Case) -> bool:
        lanes = [(OURS, None), *((OURS, budget) for budget in self._options.budget)]
        lanes += [(UNQUANTIZED if name == "unquantized" else name, None) for name in self._options.against]
        known = all(_key(self._varied(case, name, budget)) in self._known for name, budget in lanes)
        if known:
            self._console.print(f"batch {case.batch}, context {case.context:,}: in the output already")
        return known

    def _start(self, setup: Setup, stack: ExitStack) -> list[Lane]:
        options = self._options
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        lanes = []
        for name in ("engine", *options.against):
            python = options.peer_python if name == "vllm" and options.peer_python else sys.executable
            plain = name == "unquantized"
            program = "engine_worker.py" if plain else f"{name}_worker.py"
            own = replace(setup, engine={}) if plain else setup
            worker = stack.enter_context(Worker(program, own, logs / f"{name}.log", python))
            lanes.append(Lane(worker, unquantized=plain))
            if name == "engine":
                lanes += [Lane(worker, budget) for budget in options.budget]
        return lanes

    def _report(self, machine: record.Machine, measured: Measured, lanes: list[Lane]) -> None:
        case, found = measured.case, self._ceilings
        limit = self._limits.step_seconds(case.batch, case.context) * 1e3
        table = Table(
            "", "ms/step", "tok/s/user", "tok/s", "GB/s", "of bandwidth", "ours is", title_justify="left",
            title=f"{self._name} {self._options.dtype}, batch {case.batch}, context {case.context:,}: limit "
                  f"{limit:.3g} ms (copy {found.copy / 1e9:.1f}, read {found.read / 1e9:.1f} GB/s)",
        )  # fmt: skip
        for lane in lanes:
            step = measured.median(lane.label)
            limits = self._limits if lane.name == OURS else self._plain
            values = figures(case, step, limits, self._options.tokens)
            ratio = measured.ratio(lane.label) if lane is not lanes[0] else None
            table.add_row(
                lane.label, f"{step * 1e3:.3g}", f"{1 / step:.1f}", f"{case.batch / step:.1f}",
                f"{values['GBps']:.2f}", f"{values['bandwidth_share']:.0%}", "" if ratio is None else f"{ratio:.2f}x",
            )  # fmt: skip
            self._write(machine, case, lane.name, lane.budget, values if ratio is None else values | {"ratio": ratio})
        self._console.print(table)

    def _write(
        self, machine: record.Machine, case: Case, engine: str, budget: int | None, values: Mapping[str, float | None]
    ) -> None:
        rates = {"copy_GBps": self._ceilings.copy / 1e9, "read_GBps": self._ceilings.read / 1e9}
        self.records.append(machine.record("decode", self._varied(case, engine, budget), {**values, **rates}))
        if self._options.output is not None:
            record.append(self.records[-1], self._options.output)

    def _varied(self, case: Case, engine: str, budget: int | None) -> dict[str, Any]:
        return {"model": self._name, "engine": engine, "dtype": self._options.dtype, "batch": case.batch,
                "context": case.context, "budget": budget,
                **(self._eight_bits if engine == OURS else {})}  # fmt: skip


def _cases(options: Options) -> list[Case]:
    return [Case(batch, context) for batch in options.batch for context in options.context]


def _known(options: Options) -> set[str]:
    if not options.resume or options.output is None or not options.output.exists():
        return set()
    return {_key(line.case) for line in record.read(options.output) if line.benchmark == "decode"}


def _key(case: Mapping[str, Any]) -> str:
    return repr(sorted(case.items()))


def main() -> None:
    """Run every case; options that do not go together end it with a line that names them."""
    try:
        Run(tyro.cli(Options, prog="python -m bench.decode", description=__doc__), Console()).all()
    except InputError as error:
        raise SystemExit(f"bench.decode: {error}") from None


if __name__ == "__main__":
    main()
