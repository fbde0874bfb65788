"""`python -m bench.serve`: load on the server over HTTP, beside the engine without it and beside vLLM's server.

Requests are random token ids that are continued to exactly `--tokens`, or, with `--chat`, small questions with a
thinking budget. `--concurrency` of them are open at once (closed loop), or `--rate` come in a second, at times that are
drawn before the start, from which their latencies count (open loop). Tokens are counted by the server's usage. Every
side is a process of its own with the same checkpoint, requests and `--threads` for its engine, in turn within each
round and stopped outside its turn; prompts are new in every round, so that no prefix cache helps. A figure is the
median over the rounds, errors are summed, of overshoot the most is told. Beside times stand microseconds of CPU for
each token, which other load on the machine hardly moves: of the process that speaks HTTP, of the whole server, and of
this client.
"""

import random
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from bench import record, stand_in
from bench.command import Loaded, check, columns, command
from bench.decode import Case, prompts
from bench.peers.worker import Setup, Worker, WorkerFailed
from bench.serving.figures import Figures, Goals, figures, over_rounds, ratios
from bench.serving.load import Load
from bench.serving.server import Program, Server
from bench.serving.stream import Request
from engine.text.tokenizer import Tokenizer

OURS = "s1-engine"
_WARM = 16
"""Tokens of a warm-up's replies."""
_FORMATS = {
    "requests_s": "{:.2f}",
    "tok_s": "{:,.0f}",
    "ttft_p50_ms": "{:,.0f}",
    "ttft_p99_ms": "{:,.0f}",
    "answer_p50_ms": "{:,.0f}",
    "answer_p99_ms": "{:,.0f}",
    "between_p50_ms": "{:.2f}",
    "between_p99_ms": "{:.2f}",
    "end_p50_s": "{:.2f}",
    "end_p99_s": "{:.2f}",
    "goodput": "{:.0%}",
    "overshoot": "{:.0f}",
    "errors": "{:.0f}",
    "http_cpu_us_token": "{:,.1f}",
    "server_cpu_us_token": "{:,.1f}",
    "client_cpu_us_token": "{:,.1f}",
    "ratio": "{:.2f}x",
    "ttft_ratio": "{:.2f}x",
}
"""Figures of the table, a row each."""


@dataclass(frozen=True, kw_only=True)
class Options(Loaded):
    """What is asked, and how fast."""

    threads: int = 1
    """Threads of each side's engine."""
    concurrency: int = 64
    """Requests that are open at once, and sequences that an engine runs at once."""
    rate: float | None = None
    """Requests that come in a second, however many are open: an open loop."""
    requests: int = 256
    """In every round."""
    context: int = 128
    """Tokens of each prompt; with --chat, the most that one has."""
    tokens: int = 128
    """Tokens of each reply; with --chat, the most of thinking and answer together."""
    chat: bool = False
    """Small questions to a checkpoint that thinks, through /v1/chat/completions."""
    budget: int = 64
    """Thinking tokens of each chat."""
    goodput_ttft: float = 1.0
    """Seconds within which a good reply's first token comes."""
    goodput_answer: float = 5.0
    """Seconds within which the first token of a good chat's answer comes."""
    rounds: int = 3
    seed: int = 0
    """Of prompts and arrivals."""
    against: tuple[Literal["engine", "vllm"], ...] = ()
    """Other sides: `engine` is this engine in a process that is asked for everything at once and speaks no HTTP."""
    peer_python: str | None = None
    """The interpreter that has vLLM."""
    peer_flags: str = ""
    """More flags of vLLM's server, such as its reasoning parser's."""
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"

    def __post_init__(self) -> None:
        check(
            ("vllm" in self.against and self.peer_python is None)
            and "--against vllm needs --peer-python, the interpreter of an environment with vLLM",
            ("engine" in self.against and (self.chat or self.rate is not None))
            and "--against engine is asked for everything at once, and for exact counts; leave out --chat and --rate",
            min(self.concurrency, self.requests, self.context, self.tokens, self.rounds, self.threads) < 1
            and "concurrency, requests, context, tokens, rounds and threads start at 1",
            (self.rate is not None and self.rate <= 0) and f"--rate is {self.rate}; give requests per second",
            (self.chat and self.budget >= self.tokens)
            and f"--budget is {self.budget} and --tokens {self.tokens}, which leaves no answer; raise --tokens",
        )

    @property
    def load(self) -> Load:
        """As the flags say."""
        return Load(self.concurrency, self.rate)

    @property
    def goals(self) -> Goals:
        """Of a good reply."""
        return Goals(self.goodput_ttft, self.goodput_answer if self.chat else None)

    @property
    def length(self) -> int:
        """Tokens of each prompt, a stand-in's where one stands in."""
        return stand_in.tokens(self.context)


class Questions:
    """What is asked, round by round."""

    def __init__(self, options: Options) -> None:
        self._size = Tokenizer.load(options.folder).size

    def ids(self, options: Options, turn: int) -> list[list[int]]:
        """Prompts of random tokens."""
        return prompts(Case(options.requests, options.context), self._size - 3, [], options.seed + turn)

    def requests(self, options: Options, turn: int, ours: bool) -> list[Request]:
        """`ours`: with fields that this engine alone has."""
        if options.chat:
            chance = random.Random(options.seed + turn)
            pairs = [(chance.randrange(100), chance.randrange(100)) for _ in range(options.requests)]
            return [Request.chat(f"What is {a} + {b}?", options.tokens, options.budget) for a, b in pairs]
        more = {"thinking_format": "none"} if ours else {}
        return [Request.completion(ids, options.tokens, **more) for ids in self.ids(options, turn)]


Side = Callable[[Options, int], dict[str, float | None]]
"""One that is measured: runs a round, and tells its figures."""


class Run:
    """All rounds of all sides."""

    def __init__(self, options: Options, console: Console) -> None:
        self._options, self._console, self._questions = options, console, Questions(options)
        self._setup = Setup(
            checkpoint=str(options.folder),
            dtype=options.dtype,
            device=str(stand_in.device(options.device)),
            threads=options.threads,
            max_model_len=options.length + options.tokens,
            max_num_seqs=options.concurrency,
            dummy=options.dummy,
        )
        self._warm = replace(
            options,
            requests=options.concurrency,
            rate=None,
            tokens=min(options.tokens, _WARM),
            budget=min(options.budget, _WARM // 2),
        )

    def all(self) -> dict[str, dict[str, float | None]]:
        """Measure; figures by side. Raises WorkerFailed where a side does not run."""
        options = self._options
        with ExitStack() as stack:
            logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            sides, versions = self._start(stack, logs)
            machine = record.Machine.read(torch.device(options.device), versions)
            rounds: dict[str, list[dict[str, float | None]]] = {name: [] for name in sides}
            for side in sides.values():  # everything that a first request brings; with prompts of its own
                side(self._warm, options.rounds)
            for turn in range(options.rounds):
                for name in sides if turn % 2 == 0 else reversed(sides):
                    rounds[name].append(sides[name](options, turn))
        measured = {name: over_rounds(each) for name, each in rounds.items()}
        for name in sides.keys() - {OURS}:
            measured[name] |= ratios(rounds[OURS], rounds[name])
        self._write(machine, measured)
        return measured

    def _start(self, stack: ExitStack, logs: Path) -> tuple[dict[str, Side], dict[str, str]]:
        """A function for each side that runs one round; versions."""
        options, setup = self._options, self._setup
        programs = [Program.engine(setup)]
        if "vllm" in options.against:
            assert options.peer_python is not None  # Options says so
            programs.append(Program.vllm(setup, options.peer_python, shlex.split(options.peer_flags)))
        sides: dict[str, Side] = {}
        versions: dict[str, str] = {}
        for program in programs:
            server = stack.enter_context(Server(program, setup, logs / f"{program.name}.log"))
            sides[server.name] = partial(self._over_http, server)
            versions[server.name] = server.version
        if "engine" in options.against:
            worker = stack.enter_context(Worker("engine_worker.py", setup, logs / "engine.log"))
            sides["engine"] = partial(self._at_once, worker)
            versions["engine"] = worker.version
        return sides, versions

    def _over_http(self, server: Server, options: Options, turn: int) -> dict[str, float | None]:
        requests = self._questions.requests(options, turn, server.name == OURS)
        with server.turn():
            before = self._cpu(server)
            replies = options.load.run(server.port, requests, options.seed + turn)
            cpu = {name: spent - before[name] for name, spent in self._cpu(server).items()}
        found = figures(replies, options.goals, cpu)
        for error in sorted({reply.error for reply in replies if reply.error is not None})[:3]:
            self._console.print(f"{server.name}: {error}", markup=False)
        return found

    def _cpu(self, server: Server) -> dict[str, float]:
        """CPU seconds so far, of the process that speaks HTTP, of the whole server and of this process."""
        http, whole = server.cpu_seconds
        return {"http_cpu": http, "server_cpu": whole, "client_cpu": time.process_time()}

    def _at_once(self, worker: Worker, options: Options, turn: int) -> dict[str, float | None]:
        seconds = worker.run(self._questions.ids(options, turn), options.tokens)
        return {"requests_s": options.requests / seconds, "tok_s": options.requests * options.tokens / seconds}

    def _write(self, machine: record.Machine, measured: Mapping[str, Figures]) -> None:
        options = self._options
        case: dict[str, Any] = {
            "model": options.name,
            "dtype": options.dtype,
            "concurrency": options.concurrency,
            "rate": options.rate,
            "requests": options.requests,
            "context": options.context,
            "tokens": options.tokens,
            "budget": options.budget if options.chat else None,
        }
        if options.output is not None:
            lines = (machine.record("serve", {**case, "side": name}, each) for name, each in measured.items())
            record.append(options.output, *lines)


def main(options: Options) -> None:
    """Measure, print the table."""
    torch.set_num_threads(options.threads)
    console = Console()
    try:
        measured = Run(options, console).all()
    except WorkerFailed as error:
        raise SystemExit(f"bench.serve: {error}") from None
    kind = f"{options.concurrency} at once" if options.rate is None else f"{options.rate:g} a second"
    asked = f"chats, budget {options.budget}" if options.chat else f"{options.context:,} + {options.tokens:,} tokens"
    table = columns("", *measured, title=f"{options.name}, {kind}, {options.requests:,} requests, {asked}")
    for name, form in _FORMATS.items():
        cells = [one.get(name) for one in measured.values()]
        if any(cell is not None for cell in cells):
            table.add_row(name, *("" if cell is None else form.format(cell) for cell in cells))
    console.print(table)


if __name__ == "__main__":
    command(Options, main)
