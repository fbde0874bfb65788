"""`python -m bench.decode`: decode speed of this engine, beside its limit and beside peers, on random weights.

Every engine runs in a process of its own with the same checkpoint, prompts (token ids) and threads, in turn within each
round. This engine's steps are timed one by one, by its own clock, where all prompts decode and none is prefilled: a
round is the median of `--tokens` steps, and prompts are prefilled once. A peer's step is the difference of a long and a
short run over the difference of their tokens, so that prefill and start-up cancel. A figure is the median over the
rounds, a ratio the median of the rounds' ratios. With `--budget`, this engine runs once more in every round with
budgets and extensions in half of the requests.
"""

import random
import re
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from rich.console import Console

from bench import ceilings, record, stand_in, timing
from bench.command import Loaded, Resumed, check, columns, command
from bench.peers.worker import Setup, Worker, WorkerFailed
from engine.config import EngineConfig
from engine.model.config import ModelConfig
from engine.model.gguf_header import read_header
from engine.text.tokenizer import Tokenizer
from engine.thinking.plan import PRESETS
from kernels.limits import DecoderShape, Device, Limits

OURS = "s1-engine"
_NAMES = {"engine": OURS, "unquantized": f"{OURS}, unquantized"}
SHORT = 8
"""Tokens of a peer's short run, and of the warm-up."""
_FORMATS = {
    "step_ms": "{:.3g}",
    "spread": "{:.1%}",
    "tok_s_user": "{:.1f}",
    "tok_s_total": "{:.1f}",
    "GBps": "{:.2f}",
    "bandwidth_share": "{:.0%}",
    "ratio": "{:.2f}x",
}
"""Figures of the table."""


@dataclass(frozen=True)
class Case:
    """One cell of the grid; `context` is the prompt's length."""

    batch: int
    context: int

    def __str__(self) -> str:
        return f"batch {self.batch}, context {self.context:,}"

    @classmethod
    def read(cls, cells: Sequence[str]) -> list[Self]:
        """From BATCHxCONTEXT each. Raises InputError naming one that is not, or where there is none."""
        wrong = [f"has {cell!r}" for cell in cells if not re.fullmatch(r"[1-9]\d*x[1-9]\d*", cell)]
        check(*(f"--cells {what}; give BATCHxCONTEXT, like 8x1024" for what in (wrong if cells else ["is empty"])))
        return [cls(*map(int, cell.split("x"))) for cell in cells]

    @property
    def length(self) -> int:
        """Tokens of each prompt."""
        return stand_in.tokens(self.context)

    @property
    def ahead(self) -> int:
        """Steps that the first prompts may decode while the last one is prefilled, and some while it is submitted."""
        return -(-self.batch * self.length // max(1, EngineConfig.max_num_batched_tokens - self.batch)) + 32

    def most_tokens(self, tokens: int) -> int:
        """Of one request, whichever way it is timed."""
        return self.length + SHORT + tokens + self.ahead + 1


@dataclass(frozen=True, kw_only=True)
class Options(Loaded, Resumed):
    """What to run: each batch at each context, or `cells` in their order."""

    batch: tuple[int, ...] = (1, 8)
    context: tuple[int, ...] = (128,)
    """Tokens of each prompt."""
    cells: tuple[str, ...] = ()
    """BATCHxCONTEXT, like 8x1024: these instead of `batch` and `context`."""
    budget: tuple[int, ...] = ()
    """Thinking budgets to run with, two extensions each, in half of the requests."""
    tokens: int = 64
    """Steps that are timed in every round; of a peer, the tokens by which the long run is longer than the short one."""
    rounds: int = 5
    against: tuple[Literal["transformers", "vllm", "llamacpp", "unquantized"], ...] = ()
    """Peers; `unquantized` is this engine with its weights and cache in `dtype`."""
    peer_python: str | None = None
    """The interpreter that has vLLM."""
    peer_node: Path | None = None
    """The folder in which the npm package node-llama-cpp is installed (llama.cpp)."""
    gguf: Path | None = None
    """What llama.cpp runs: the same weights as a GGUF file, in the type that is to be timed."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    quantization: Literal["none", "int8", "fp8"] = "none"
    """The engine's weights in 8 bits; peers run in `dtype`."""
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"

    def __post_init__(self) -> None:
        check(
            ("vllm" in self.against and self.peer_python is None)
            and "--against vllm needs --peer-python, the interpreter of an environment with vLLM",
            ("llamacpp" in self.against and (self.peer_node is None or self.gguf is None))
            and "--against llamacpp needs --peer-node, the folder with node-llama-cpp, and --gguf, the weights",
            ("unquantized" in self.against and (self.quantization, self.kv_cache_dtype) == ("none", "auto"))
            and "--against unquantized needs --quantization or --kv-cache-dtype",
            (min(*self.batch, *self.context, self.tokens, self.rounds, self.threads) < 1 or min((0, *self.budget)) < 0)
            and "batch, context, tokens, rounds and threads start at 1, budgets at 0",
            (self.resume and self.output is None) and "--resume needs --output, the file whose results are kept",
        )
        if self.cells:
            Case.read(self.cells)

    @property
    def cases(self) -> list[Case]:
        """What is run, in order."""
        every = [Case(batch, context) for batch in self.batch for context in self.context]
        return Case.read(self.cells) if self.cells else every


@dataclass(frozen=True)
class Timed(timing.Times):
    """What one round of a lane gave: seconds of steps, one by one or of an average one, and keys that a step saw."""

    keys: float


@dataclass(frozen=True)
class Lane:
    """One way to run a case: an engine, and the budget in half of its requests (None: no thinking)."""

    worker: Worker
    name: str
    """As records and tables tell it."""
    budget: int | None = None

    @property
    def label(self) -> str:
        return self.name if self.budget is None else f"{self.name}, budget {self.budget}"

    def warm(self, case: Case, ids: list[list[int]], tokens: int) -> None:
        """Everything that a first run brings: prefill, compiled kernels, captured steps. A peer also runs as long as it
        is going to be: transformers compiles for the longest request so far."""
        if self.worker.name == "engine":
            self._window(case, ids, SHORT)
        else:
            for length in (SHORT, SHORT + tokens):
                self.worker.run(ids, length)

    def run(self, case: Case, ids: list[list[int]], tokens: int) -> Timed:
        """One round."""
        if self.worker.name == "engine":
            return self._window(case, ids, tokens)
        return Timed((self._difference(ids, tokens),), keys=case.batch * (case.length + SHORT + tokens // 2))

    def _window(self, case: Case, ids: list[list[int]], steps: int) -> Timed:
        # no reserve: a window may be shorter than one, and never reaches the budget then
        on = {
            "thinking_format": "s1",
            "thinking_token_budget": self.budget,
            "thinking_extensions": 2,
            "thinking_end_str": PRESETS["s1"].end,
            "answer_reserve_tokens": 0,
        }
        forced = range(0, len(ids), 2) if self.budget is not None else ()
        params = [on if i in forced else {"thinking_format": "none"} for i in range(len(ids))]
        seconds, keys = self.worker.window(ids, steps, case.ahead, params=params)
        return Timed(tuple(seconds), keys)

    def _difference(self, ids: list[list[int]], tokens: int) -> float:
        """Seconds per step of a peer; again where something else on the machine made the short run the longer one.
        Raises ValueError where that happens three times."""
        for _ in range(3):
            short, long = self.worker.run(ids, SHORT), self.worker.run(ids, SHORT + tokens)
            if long > short:
                return (long - short) / tokens
        raise ValueError(f"the long run took {long:.4f} s and the short one {short:.4f} s; raise --tokens")


def prompts(case: Case, vocab: int, opener: list[int], seed: int = 0) -> list[list[int]]:
    """`batch` lists of `length` random ids, the last of which are the opener."""
    source, own = random.Random(seed), range(max(1, case.length - len(opener)))
    return [[source.randrange(vocab) for _ in own] + opener for _ in range(case.batch)]


def measure(
    case: Case, lanes: Sequence[Lane], ids: list[list[int]], tokens: int, rounds: int
) -> dict[str, list[Timed]]:
    """Time every lane `rounds` times, in an order that turns, after a warm-up: its rounds by its label."""
    timed: dict[str, list[Timed]] = {lane.label: [] for lane in lanes}
    for lane in lanes:
        lane.warm(case, ids, tokens)
    for turn in range(rounds):
        for lane in lanes if turn % 2 == 0 else reversed(lanes):
            timed[lane.label].append(lane.run(case, ids, tokens))
    return timed


def figures(case: Case, rounds: Sequence[Timed], limits: Limits, ours: Sequence[float] = ()) -> dict[str, float | None]:
    """Of a lane's rounds: ms per step, tok/s per user and in all, GB/s, the share of the measured bandwidth that this
    is, and the spread over all steps; how many times as fast `ours` are, seconds per step of as many rounds."""
    step, keys = statistics.median(one.median for one in rounds), statistics.mean(one.keys for one in rounds)
    needed = limits.streamed_bytes + keys * limits.kv_bytes_per_token
    found: dict[str, float | None] = {
        "step_ms": step * 1e3,
        "tok_s_user": 1 / step,
        "tok_s_total": case.batch / step,
        "GBps": needed / step / 1e9,
        "bandwidth_share": needed / step / limits.device.bandwidth,
        "limit_ms": limits.step_seconds(case.batch, round(keys / case.batch)) * 1e3,
        "spread": timing.Times(tuple(seconds for one in rounds for seconds in one.seconds)).spread,
    }
    if ours:
        found["ratio"] = timing.median_ratio([(one.median, own) for one, own in zip(rounds, ours, strict=True)])
    return found


def limits_of(options: Options, model: DecoderShape, rates: Device) -> tuple[Limits, Limits]:
    """The limits of this engine as it is configured, and with all in `dtype`."""
    itemsize = getattr(torch, options.dtype).itemsize
    plain = Limits(model, rates, weight_bytes=itemsize, kv_bytes=itemsize, head_bytes=itemsize)
    return replace(
        plain,
        weight_bytes=itemsize if options.quantization == "none" else 1,
        kv_bytes=itemsize if options.kv_cache_dtype == "auto" else 1,
        head_bytes=1 if options.quantization == "int8" else itemsize,
    ), plain


def together(engines: tuple[str, ...], device: torch.device) -> list[tuple[str, ...]]:
    """Engines whose processes are there at once: one on a GPU, for each fills the card; all of them, in turn, on a CPU,
    whose bandwidth drifts."""
    return [(name,) for name in engines] if device.type == "cuda" else [engines]


class Run:
    """One invocation: the options, what follows from them, and the records so far."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options, self._console = options, console
        torch.set_num_threads(options.threads)
        self._device, self._folder = torch.device(options.device), options.folder
        self._model = ModelConfig.load(self._folder)
        self._ceilings = ceilings.measure(self._device)
        self._limits, self._plain = limits_of(options, self._model, self._ceilings.limits_of(self._device))
        self._known = options.known("decode", self._device)
        chosen = ("quantization", options.quantization), ("kv_cache_dtype", options.kv_cache_dtype)
        self._eight_bits = {name: value for name, value in chosen if value not in ("none", "auto")}
        self._opener = Tokenizer.load(self._folder).encode(PRESETS["s1"].opener, specials=True)
        self._ours: dict[Case, list[float]] = {}  # this engine's round medians, which the others are compared with

    def all(self) -> bool:
        """Every case, in order; a table and a record for each lane as it is done. Whether all could be measured."""
        done = [self._group(names) for names in together(("engine", *self._options.against), self._device)]
        return all(done)

    def _group(self, names: tuple[str, ...]) -> bool:
        cases, good = [case for case in self._options.cases if not self._is_known(case, names)], True
        while cases:
            with ExitStack() as stack:
                try:
                    lanes = self._start(names, stack)
                except WorkerFailed as error:  # nothing that it could run, but others may
                    self._console.print(str(error), markup=False)
                    return False
                machine = record.Machine.read(self._device, {lane.name: lane.worker.version for lane in lanes})
                try:
                    while cases:
                        case = cases.pop(0)
                        self._case(case, lanes, machine)
                except WorkerFailed as error:  # the next case gets a new one
                    self._console.print(f"{case}: {error}", markup=False)
                    good = False
        return good

    def _case(self, case: Case, lanes: list[Lane], machine: record.Machine) -> None:
        if self._limits.resident_sequences(case.most_tokens(self._options.tokens)) < case.batch:
            self._console.print(f"{case}: does not fit in memory")
            self._write(machine, case, [(lane, {"step_ms": None}) for lane in lanes])
            return
        ids = prompts(case, self._model.vocab_size - 3, self._opener)
        if self._device.type == "cpu":  # its bandwidth drifts: judged by what is measured right before
            self._ceilings = ceilings.later(self._ceilings, self._device)
            self._limits, self._plain = limits_of(self._options, self._model, self._ceilings.limits_of(self._device))
        timed = measure(case, lanes, ids, self._options.tokens, self._options.rounds)
        table = columns(
            *("", "ms/step", "spread", "tok/s/user", "tok/s", "GB/s", "of bandwidth", "ours is"),
            title=f"{self._options.name} {self._options.dtype}, {case}: "
            f"limit {self._limits.step_seconds(case.batch, case.context) * 1e3:.3g} ms "
            f"(copy {self._ceilings.copy / 1e9:.1f}, read {self._ceilings.read / 1e9:.1f} GB/s)",
        )
        measured: list[tuple[Lane, Mapping[str, float | None]]] = []
        for lane in lanes:
            rounds, limits = timed[lane.label], self._limits if lane.name == OURS else self._plain
            values = figures(case, rounds, limits, self._ours.get(case, ()))
            if lane.label == OURS:
                self._ours[case] = [one.median for one in rounds]
            table.add_row(lane.label, *(form.format(values[key]) for key, form in _FORMATS.items() if key in values))
            measured.append((lane, values))
        self._write(machine, case, measured)
        self._console.print(table)

    def _is_known(self, case: Case, names: tuple[str, ...]) -> bool:
        wanted = [
            self._varied(case, _NAMES.get(name, name), budget) for name in names for budget in self._budgets(name)
        ]
        found = [[line.figures for line in self._known if line.case == varied] for varied in wanted]
        if not all(found):
            return False
        self._console.print(f"{case}: in the output already")
        if names[0] == "engine" and (step := found[0][-1]["step_ms"]) is not None:
            self._ours[case] = [step / 1e3] * self._options.rounds
        return True

    def _start(self, names: tuple[str, ...], stack: ExitStack) -> list[Lane]:
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        setup = Setup(
            checkpoint=str(self._folder),
            dtype=self._options.dtype,
            device=str(stand_in.device(self._options.device)),
            threads=self._options.threads,
            max_model_len=max(case.most_tokens(self._options.tokens) for case in self._options.cases),
            max_num_seqs=max(case.batch for case in self._options.cases),
            dummy=self._options.dummy,
            engine=self._eight_bits,
        )
        lanes = []
        for name in names:
            worker = stack.enter_context(self._worker(name, setup, logs / f"{name}.log"))
            lanes += [Lane(worker, _NAMES.get(name, name), budget) for budget in self._budgets(name)]
        return lanes

    def _worker(self, name: str, setup: Setup, log: Path) -> Worker:
        options = self._options
        if name == "llamacpp":
            own = replace(setup, checkpoint=str(options.gguf))
            return Worker("llamacpp_worker.mjs", own, log, "node", variables={"NODE_LLAMA_CPP": str(options.peer_node)})
        if name == "vllm":
            return Worker("vllm_worker.py", setup, log, options.peer_python or sys.executable)
        if name == "unquantized":
            return Worker("engine_worker.py", replace(setup, engine={}), log)
        return Worker(f"{name}_worker.py", setup, log)

    def _write(
        self, machine: record.Machine, case: Case, measured: Sequence[tuple[Lane, Mapping[str, float | None]]]
    ) -> None:
        """All lanes of a case at once: whoever goes on with the output measures them side by side or not at all."""
        if self._options.output is None:
            return
        rates = {"copy_GBps": self._ceilings.copy / 1e9, "read_GBps": self._ceilings.read / 1e9}
        cases = [(self._varied(case, lane.name, lane.budget), {**values, **rates}) for lane, values in measured]
        record.append(self._options.output, *(machine.record("decode", *each) for each in cases))

    def _budgets(self, name: str) -> tuple[int | None, ...]:
        return (None, *self._options.budget) if name == "engine" else (None,)

    def _varied(self, case: Case, engine: str, budget: int | None) -> dict[str, Any]:
        return {
            "model": self._options.name,
            "engine": engine,
            "dtype": self._options.dtype,
            "batch": case.batch,
            "context": case.context,
            "budget": budget,
            **(self._eight_bits if engine == OURS else {}),
            **({"gguf": weights_of(self._options.gguf)} if engine == "llamacpp" else {}),
            **stand_in.products(self._device),
        }


def weights_of(file: Path | None) -> str:
    """The type of most matrices of a GGUF file, such as Q8_0."""
    assert file is not None  # Options says so
    matrices = [tensor for tensor in read_header(file).tensors.values() if len(tensor.shape) == 2]
    return statistics.mode(tensor.dtype for tensor in matrices)


def main(options: Options) -> None:
    """Run every case; options that do not go together end it with a line that names them."""
    if not Run(options, Console()).all():
        raise SystemExit("bench.decode: not every case could be measured; the lines above say why")


if __name__ == "__main__":
    command(Options, main)
