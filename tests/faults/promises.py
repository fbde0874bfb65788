"""What survives what: the one table, which docs/faults.md shows and tests/faults/test_faults.py holds the programs to.

python -m tests.faults.promises --write docs/faults.md
"""

import sys
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "faults.md"
BEGIN, END = "<!-- faults: begin (python -m tests.faults.promises --write docs/faults.md) -->", "<!-- faults: end -->"
PROGRAMS = ("generate", "evaluate", "sft", "curate")

FAULTS = {
    "kill": "`kill -9` while it works",
    "kill twice": "`kill -9`, and again while it goes on",
    "torn": "`kill -9`, and the end of the file that grows is torn",
    "stop": "stopped and continued (Ctrl-Z, `fg`)",
    "terminate": "SIGTERM",
    "interrupt": "Ctrl-C",
    "interrupt twice": "Ctrl-C, and again at once",
    "full disk": "the disk is full",
    "file limit": "files may not grow (quota, `ulimit -f`)",
    "memory": "no more memory is to be had (`ulimit -v`)",
    "removed": "the file that grows is removed",
    "replaced": "another file takes its name",
    "folder removed": "the folder of the run is removed",
    "folder moved": "the folder of the run is moved",
    "pipe": "nobody reads what it prints any more",
    "two writers": "the command is started a second time",
}
"""What is done to a program in the middle of its work, at a point that is drawn from a seed."""


@dataclass(frozen=True)
class Promise:
    """What comes of a fault.

    Attributes:
        codes: exit codes it may end with; None: whatever the moment makes of it.
        says: what the last line on standard error holds; "": nothing is asked of it.
        note: for the reader.
        lost: whether what had been finished goes with the fault, which took it away by hand.
    """

    codes: tuple[int, ...] | None
    says: str
    note: str
    lost: bool = False


_KILLED = Promise((-9,), "", "nothing is lost")
_CONTINUED = Promise((0,), "", "as if nothing had been")
_HEALED = Promise((-9,), "", "what is torn runs again")
_MEMORY = Promise(None, "", "nothing is lost")
_SECOND = Promise((0,), "", "the second is refused (2), the first is not touched")


def _each(generate: Promise, evaluate: Promise, sft: Promise, curate: Promise) -> dict[str, Promise]:
    return dict(zip(PROGRAMS, (generate, evaluate, sft, curate), strict=True))


def _all(promise: Promise) -> dict[str, Promise]:
    return dict.fromkeys(PROGRAMS, promise)


PROMISES: dict[str, dict[str, Promise]] = {
    "kill": _all(_KILLED),
    "kill twice": _all(_KILLED),
    "torn": _all(_HEALED),
    "stop": _all(_CONTINUED),
    "terminate": _each(
        Promise((143,), "terminated: ", "what has finished is written"),
        Promise((143,), "the same command goes on", "what has finished is written"),
        Promise((0,), "the same command goes on", "the step is ended and saved"),
        Promise((143,), "the same command goes on", "what was answered is kept"),
    ),
    "interrupt": _each(
        Promise((130,), "interrupted: ", "what has finished is written"),
        Promise((130,), "the same command goes on", "what has finished is written"),
        Promise((130,), "the same command goes on", "the step is ended and saved"),
        Promise((130,), "the same command goes on", "what was answered is kept"),
    ),
    "interrupt twice": _each(
        Promise(None, "", "whole lines only"),
        Promise(None, "", "whole lines only"),
        Promise(None, "", "the last checkpoint stays"),
        Promise(None, "", "what was answered is kept"),
    ),
    "full disk": _each(
        Promise((1,), "No space left on device", "whole lines only; `--resume` with more room"),
        Promise((1,), "No space left on device", "whole rows only; again with more room"),
        Promise((1,), "run the same command", "the last checkpoint stays"),
        Promise((1,), "database or disk is full; make room", "what was answered is kept"),
    ),
    "file limit": _each(
        Promise((1,), "File too large", "whole lines only"),
        Promise((1,), "File too large", "whole rows only"),
        Promise((1,), "run the same command", "the last checkpoint stays"),
        Promise((1,), "responses.sqlite: ", "what was answered is kept"),
    ),
    "memory": _all(_MEMORY),
    "removed": _each(
        Promise((1,), "its lines are in ", "the lines are put back"),
        Promise((1,), "its lines are in ", "the rows are put back"),
        Promise((1,), "its lines are in ", "the metrics are put back, checkpoints stay"),
        Promise((1,), "its answers are in ", "the answers are put back"),
    ),
    "replaced": _each(
        Promise((1,), "its lines are in ", "the lines are put beside it, it is left alone"),
        Promise((1,), "its lines are in ", "the rows are put beside it, it is left alone"),
        Promise((1,), "its lines are in ", "the metrics are put beside it, checkpoints stay"),
        Promise((1,), "its answers are in ", "the answers are put beside it, it is left alone"),
    ),
    "folder removed": _each(
        Promise((1,), "its lines are in ", "folder and lines are put back"),
        Promise((1,), "its lines are in ", "folder and rows are put back"),
        Promise((1,), "its lines are in ", "the checkpoints go with it: it begins anew", lost=True),
        Promise((1,), "its answers are in ", "the answers are put back"),
    ),
    "folder moved": _each(
        Promise((1,), "its lines are in ", "says where they are"),
        Promise((1,), "its lines are in ", "says where they are"),
        Promise((1,), "its lines are in ", "says where they are"),
        Promise((1,), "its answers are in ", "the answers are put back"),
    ),
    "pipe": _each(
        Promise((1,), "", "what was read is whole lines"),
        Promise((1,), "", "the run is whole"),
        Promise((1,), "", "stops; again goes on"),
        Promise((1,), "", "stops; again goes on"),
    ),
    "two writers": _all(_SECOND),
}

QUICK = {("generate", "kill"), ("evaluate", "terminate"), ("sft", "kill"), ("curate", "file limit")}
"""Cells for every change; `make test-full` tries all."""


def table() -> str:
    """The table as Markdown: a row per fault, a column per program, the exit code first."""
    rows = [f"| | {' | '.join(f'`{name}`' for name in PROGRAMS)} |", "|---" * (len(PROGRAMS) + 1) + "|"]
    for fault, words in FAULTS.items():
        cells = [PROMISES[fault].get(name) for name in PROGRAMS]
        rows.append(f"| {words} | {' | '.join('' if cell is None else _cell(cell) for cell in cells)} |")
    return "\n".join(rows)


def _cell(promise: Promise) -> str:
    codes = [str(code if code >= 0 else 128 - code) for code in promise.codes or ()]
    return ": ".join([*(["/".join(codes)] if codes else []), promise.note])


def written(text: str) -> str:
    """`text` with the table between its marks."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--write"]:
        file = Path(sys.argv[2])
        file.write_text(written(file.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())
