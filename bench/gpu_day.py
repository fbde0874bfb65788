"""`python -m bench.gpu_day`: every figure that a GPU at hand for minutes can give, in order of value.

Each part is a benchmark of its own in a process of its own with a time limit: one that raises, hangs or runs out of
memory costs the others nothing. Parts append JSON lines to a folder as they go. Called again with that folder, parts
that are done are left out, and unfinished ones go on where they can. On a machine without a GPU, or with `--reduced`,
every part runs with a tiny model in seconds.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch
import tyro
from rich.console import Console
from rich.table import Table

from bench import record

_32B = ("--shape", "qwen2.5-32b", "--dummy", "--device", "cuda")
_TINY = ("--shape", "tiny", "--device", "cpu")


@dataclass(frozen=True)
class Part:
    """`module` with `full` arguments on a GPU, `reduced` ones elsewhere; None: the part has no such form."""

    name: str
    module: str
    full: tuple[str, ...]
    reduced: tuple[str, ...] | None
    minutes: float
    """Most it may take on a GPU."""
    resumes: bool = False
    """Its module takes --resume and leaves out what its output has."""
    peer: bool = False
    """Its full arguments end with --against, so that vllm --peer-python can follow."""


PARTS = (
    Part("ceilings", "bench.ceilings", ("--device", "cuda"), ("--device", "cpu"), 1),
    Part("correctness", "bench.correctness", ("--device", "cuda"), ("--device", "cpu", "--no-tests"), 3),
    Part("kernels", "bench.kernels", (), None, 3),
    Part("decode", "bench.decode",
         (*_32B, "--batch", "1", "8", "32", "64", "--context", "1024", "8192", "32768", "--budget", "64",
          "--tokens", "96", "--rounds", "3"),
         (*_TINY, "--batch", "1", "4", "--context", "32", "--budget", "8", "--tokens", "24", "--rounds", "2"),
         7.5, resumes=True),
    Part("gemm", "bench.gemm", (), None, 7, resumes=True),
    Part("decode_fp8_kv", "bench.decode",
         (*_32B, "--kv-cache-dtype", "fp8", "--batch", "8", "64", "--context", "1024", "8192", "--tokens", "64",
          "--rounds", "3"), None, 4, resumes=True),
    Part("decode_int8", "bench.decode",
         (*_32B, "--quantization", "int8", "--batch", "1", "8", "64", "--context", "1024", "--tokens", "64",
          "--rounds", "3"), None, 4, resumes=True),
    Part("decode_fp8", "bench.decode",
         (*_32B, "--quantization", "fp8", "--kv-cache-dtype", "fp8", "--batch", "1", "8", "64", "--context", "1024",
          "--tokens", "64", "--rounds", "3"), None, 4, resumes=True),
    Part("prefill", "bench.prefill", (*_32B, "--context", "1024", "8192", "32768"),
         (*_TINY, "--context", "128", "--rounds", "1"), 2),
    Part("load", "bench.prefill", ("--shape", "qwen2.5-0.5b", "--context", "1024"), None, 2),
    Part("peers", "bench.decode",
         (*_32B, "--batch", "1", "8", "64", "--context", "1024", "--tokens", "64", "--rounds", "3",
          "--against", "transformers"),
         None, 7, resumes=True, peer=True),
    Part("training", "bench.train",
         ("--shape", "qwen2.5-0.5b", "--device", "cuda", "--mean-tokens", "4096", "--batch-size", "4", "--steps", "4"),
         ("--shape", "tiny", "--device", "cpu", "--batch-size", "4", "--steps", "2", "--rounds", "1"), 3),
    Part("training_32b_slice", "bench.train",
         ("--shape", "qwen2.5-32b", "--layers", "4", "--device", "cuda", "--mean-tokens", "8192", "--batch-size", "2",
          "--steps", "3", "--rounds", "2", "--checkpointing", "selective"), None, 3),
    Part("client_loop", "bench.budgets",
         ("--shape", "qwen2.5-0.5b", "--batch", "32", "--context", "256", "--budget", "500", "1000", "2000", "4000",
          "--rounds", "2"),
         (*_TINY, "--batch", "4", "--context", "16", "--budget", "8", "16", "--rounds", "1", "--answer", "8"), 4),
    Part("host", "bench.host", (), ("--tokens", "1024", "--window", "256", "--batch", "16", "--rounds", "2",
                                    "--batch-tokens", "64"), 1),
)  # fmt: skip

GAPS = (
    "a profile of ten decode steps: gaps between kernels, and device-to-host synchronisations",
    "tensor parallelism: NCCL against one-shot all-reduce needs several GPUs",
    "training of 7B with LoRA: only full fine-tuning is timed",
    "peers with continuous batching of transformers: `generate` with a static cache is what runs",
)
"""What the day does not measure, said with every table."""


@dataclass(frozen=True, kw_only=True)
class Options:
    only: tuple[Literal["ceilings", "correctness", "kernels", "decode", "gemm", "decode_fp8_kv", "decode_int8",
                        "decode_fp8", "prefill", "load", "peers", "training", "training_32b_slice", "client_loop",
                        "host"],
                ...] = ()  # fmt: skip
    """Parts to run; without it all, in order."""
    minutes: float = 8.0
    """Most the whole call may take; what does not fit is left for the next call."""
    out: Path | None = None
    """Folder for JSON lines and logs; by default one for the date and commit in bench/results."""
    reduced: bool = not torch.cuda.is_available()
    """The small form that needs no GPU."""
    peer_python: str | None = None
    """The interpreter that has vLLM; without it vLLM is not run."""


@dataclass(frozen=True)
class Outcome:
    """How a part ended: done, failed, out of time, not started, or absent."""

    part: str
    state: Literal["done", "done before", "failed", "out of time", "not started", "absent"]
    seconds: float = 0.0
    lines: int = 0
    why: str = ""


def command(part: Part, options: Options, output: Path) -> list[str] | None:
    """What runs the part; None where it has no form for this machine."""
    arguments = part.reduced if options.reduced else part.full
    if arguments is None:
        return None
    peer = ("vllm", "--peer-python", options.peer_python) if part.peer and options.peer_python is not None else ()
    resume = ("--resume",) if part.resumes else ()
    return [sys.executable, "-m", part.module, *arguments, *peer, "--output", str(output), *resume]


def run_part(part: Part, options: Options, folder: Path, seconds: float) -> Outcome:
    """Run one part for at most `seconds`; whatever happens to it, its lines so far stay."""
    output, log, done = (folder / f"{part.name}.{suffix}" for suffix in ("jsonl", "log", "done"))
    if done.exists():
        return Outcome(part.name, "done before", lines=_count(output))
    if importlib.util.find_spec(part.module) is None:
        return Outcome(part.name, "absent", why=f"there is no {part.module}")
    arguments = command(part, options, output)
    if arguments is None:
        return Outcome(part.name, "absent", why="needs a GPU")
    start = time.monotonic()
    with log.open("w") as text:
        # A session of its own: killing its group ends the workers it started too.
        process = subprocess.Popen(arguments, stdout=text, stderr=text, start_new_session=True, cwd=record.ROOT)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            _end(process)
            return Outcome(part.name, "out of time", time.monotonic() - start, _count(output), f"after {seconds:.0f} s")
        except BaseException:
            _end(process)
            raise
    taken = time.monotonic() - start
    if code == 0:
        done.touch()
        return Outcome(part.name, "done", taken, _count(output))
    words = log.read_text(errors="replace").strip().splitlines()
    why = f"exit code {code}: {words[-1][:200] if words else 'no output'}"
    return Outcome(part.name, "failed", taken, _count(output), why)


def _end(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _count(output: Path) -> int:
    return len(output.read_text(encoding="utf-8").splitlines()) if output.exists() else 0


def run(options: Options, console: Console, parts: tuple[Part, ...] = PARTS) -> list[Outcome]:
    """All parts within the minutes; their printed tables and what became of each."""
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    folder = options.out or record.RESULTS / f"{date}-{record.commit().rstrip('+')}"
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + options.minutes * 60
    device = torch.device("cpu" if options.reduced or not torch.cuda.is_available() else "cuda")
    console.print(f"{record.device_name(device)}, {record.clocks()} MHz, {record.versions()}, commit {record.commit()}")
    outcomes = []
    for part in parts:
        if options.only and part.name not in options.only:
            continue
        left = deadline - time.monotonic()
        if left < 5:
            outcomes.append(Outcome(part.name, "not started", why="out of minutes; run the command again"))
            continue
        outcome = run_part(part, options, folder, min(left, part.minutes * 60))
        outcomes.append(outcome)
        log = folder / f"{part.name}.log"
        if outcome.state in ("done", "out of time") and log.exists():
            console.print(log.read_text(errors="replace").rstrip(), markup=False, highlight=False)
    table = Table("part", "", "s", "lines", "why")
    for outcome in outcomes:
        table.add_row(outcome.part, outcome.state, f"{outcome.seconds:.0f}", str(outcome.lines), outcome.why)
    console.print(table)
    for gap in GAPS:
        console.print(f"not measured: {gap}")
    console.print(f"results: {folder}")
    return outcomes


if __name__ == "__main__":
    ended = run(tyro.cli(Options, prog="python -m bench.gpu_day", description=__doc__), Console())
    raise SystemExit(1 if any(outcome.state == "failed" for outcome in ended) else 0)
