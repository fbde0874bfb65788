"""The four programs that work for hours, each on a task of seconds: how it is called, what it leaves."""

import hashlib
import json
import multiprocessing
import os
import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import torch
import yaml

from tests.train.support import write_config, write_model, write_tokens

NANO = Path(__file__).resolve().parents[2] / "models" / "s1-nano"
FORKS = multiprocessing.get_context("forkserver")
"""A clean process that has the programs imported: each child is a process of its own, and starts in a moment."""
FORKS.set_forkserver_preload(
    ["engine.run", "bench.evaluation.commands", "train.sft", "curate.run", "curate.models.local"]
)


@dataclass(frozen=True)
class Program:
    """One of the four.

    Attributes:
        write: writes its inputs into a folder, once; returns what its command line begins with.
        place: gives the rest of the command line for a run that lives in a folder, `again` for one that goes on.
        log: the file below that folder which grows while it runs.
        finished: what of that folder is finished, by name; what it is must not change any more.
        content: all that a whole run leaves, without times.
    """

    name: str
    write: Callable[[Path], list[str]]
    place: Callable[[Path, bool], list[str]]
    log: str
    finished: Callable[[Path], Mapping[Any, Any]]
    content: Callable[[Path], Any]


class Descriptor:
    """An open file of this process that a child of `FORKS` gets as a number of its own."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> Any:
        return _own, (DupFd(self._number),)


def _own(travelled: Any) -> int:
    return travelled.detach()


def child(name: str, arguments: list[str], stdout: int, stderr: int) -> None:
    """Be the program: what `python -m` runs, with its standard streams led away."""
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    torch.set_num_threads(1)
    sys.argv = [name, *arguments]
    # Imported here: a child needs one of them, and whoever collects the tests none.
    match name:
        case "generate":
            from engine.generate import main
        case "evaluate":
            from bench.evaluate import main
        case "sft":
            from train.sft import main
        case _:
            from curate.run import main
    sys.exit(main())


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; none of an absent one."""
    whole = path.read_bytes().rpartition(b"\n")[0] if path.exists() else b""
    return [json.loads(line) for line in whole.splitlines()]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_generate(inputs: Path) -> list[str]:
    records = [{"prompt": f"What is {i} + {i}?", "params": {"max_tokens": 24 + i % 7}} for i in range(40)]
    (inputs / "in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    small = ["--device", "cpu", "--dtype", "float32", "--kv-cache-tokens", "4096", "--max-num-seqs", "4"]
    return ["--model", str(NANO), *small, "--input", str(inputs / "in.jsonl")]


def _generated(run: Path) -> dict[Any, Any]:
    return {line["index"]: line["outputs"] for line in _lines(run / "out.jsonl")}


def _write_evaluate(inputs: Path) -> list[str]:
    grid = {
        "model": str(NANO),
        "tasks": [{"name": "s1_nano", "count": 12, "seed": 11}],
        "methods": [{"method": "budget", "budgets": [4, 16, 32]}],
        "answer_tokens": 16,
        "engine": {"device": "cpu", "dtype": "float32", "max_num_seqs": 4, "kv_cache_tokens": 4096},
    }
    (inputs / "grid.yaml").write_text(yaml.safe_dump(grid))
    return [str(inputs / "grid.yaml")]


def _sampled(run: Path) -> dict[Any, Any]:
    keys = ("task", "problem", "condition", "sample")
    return {tuple(row[k] for k in keys): (row["token_ids"], row["answer"]) for row in _lines(run / "samples.jsonl")}


def _write_sft(inputs: Path) -> list[str]:
    model = write_model(inputs / "model", hidden=64, intermediate=128)
    data = write_tokens(inputs / "data.jsonl", [31, 7, 22, 15, 40, 9, 18, 26, 12, 33] * 2)
    tree = {"epochs": 4, "checkpoint": {"every": 2}, "optim": {"lr": 1e-3}}
    return [str(write_config(inputs / "run.yaml", model, data, **tree))]


def _trained(run: Path) -> dict[Any, Any]:
    """The steps that checkpoints hold; the weights behind each are what `content` compares at the end."""
    steps = [int(m.parent.name.removeprefix("step-")) for m in run.glob("checkpoints/step-*/complete.json")]
    return dict.fromkeys(range(max(steps, default=0)))


def _tuned(run: Path) -> Any:
    steps = [{k: line[k] for k in ("step", "loss", "grad_norm", "samples")} for line in _lines(run / "metrics.jsonl")]
    return steps, _hash(run / "export" / "model-00001-of-00001.safetensors")


def _write_curate(inputs: Path) -> list[str]:
    rows = [{"question": f"Ann has {i} apples and buys {3 * i}.", "answer": f"#### {4 * i}"} for i in range(30)]
    (inputs / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree = {
        "collect": {"sources": [{"adapter": "GSM8K", "path": str(inputs / "rows.jsonl")}]},
        "dedupe": {"jaccard": 1.0},
        "decontaminate": {"against": [{"name": "held out", "heldout": 50}]},
        "trace": {
            "model": {"model": f"engine:{NANO}", "device": "cpu", "dtype": "float32", "max_num_seqs": 2},
            "sampling": {"max_tokens": 32, "thinking_token_budget": 16},
        },
    }
    (inputs / "config.yaml").write_text(yaml.safe_dump(tree))
    return []


def _curate_place(run: Path, again: bool) -> list[str]:
    config = run.parent / f"{run.name}.yaml"
    tree = yaml.safe_load((run.parent / "inputs" / "config.yaml").read_text())
    config.write_text(yaml.safe_dump({**tree, "run": str(run)}))
    return [str(config)]


def _asked(run: Path) -> dict[Any, Any]:
    file = run / "responses.sqlite"
    if not file.exists():
        return {}
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as store:
            return dict(store.execute("SELECT key, text || reasoning FROM responses").fetchall())
    except sqlite3.Error:  # it is being made, or put out of the way
        return {}


def _curated(run: Path) -> Any:
    tables = {
        str(path.relative_to(run)): _hash(path) for path in sorted(run.glob("*/*")) if path.parent.name != "report"
    }
    return tables, _asked(run)


PROGRAMS = {
    program.name: program
    for program in (
        Program(
            "generate",
            _write_generate,
            lambda run, again: ["--output", str(run / "out.jsonl"), *(["--resume"] if again else [])],
            "out.jsonl",
            _generated,
            lambda run: [*_generated(run).items()],
        ),
        Program(
            "evaluate",
            _write_evaluate,
            lambda run, again: ["--out", str(run)],
            "samples.jsonl",
            _sampled,
            lambda run: (_sampled(run), (run / "report.md").read_text()),
        ),
        Program("sft", _write_sft, lambda run, again: [f"run={run}"], "metrics.jsonl", _trained, _tuned),
        Program("curate", _write_curate, _curate_place, "responses.sqlite", _asked, _curated),
    )
}


def done(program: Program, run: Path) -> int:
    """How much is finished: lines of the log, or rows of the store."""
    if program.name == "curate":
        return len(_asked(run))
    return len(_lines(run / program.log)) if (run / program.log).exists() else 0
