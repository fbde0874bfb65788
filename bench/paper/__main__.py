"""The paper's figures and tables, measured again in small: every model, every evaluation, and docs/paper.md of them.

    python -m bench.paper                  # everything that is not done yet, then the page; killed, it goes on
    python -m bench.paper --plan           # what would be done, and how long that took once
    python -m bench.paper --part table2    # what one part needs, and its numbers as JSON on standard output
    python -m bench.paper --page           # the page alone, from bench/results/paper.json

Steps are kept in --out, each in a folder of its own, with logs/ beside them.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine.command.flags import read_flags
from engine.command.stop import exit_code, terminable
from engine.errors import EngineDead, InputError, tell
from engine.one_writer import sole_writer


@dataclass(frozen=True)
class Files:
    """Where results and page go."""

    results: Path = Path("bench/results/paper.json")
    page: Path = Path("docs/paper.md")
    figures: Path = Path("docs/figures")


PartName = Literal[
    "base", "figure1", "figure7", "table2", "sizes", "table8", "table3", "table4", "limits", "curation", "training"
]


@dataclass(frozen=True)
class Arguments:
    """What is done of it, and where."""

    out: Path | None = None
    """Folder of everything that is made on the way; runs/paper, of a rehearsal runs/paper_rehearsal."""
    workers: int = 2
    """Steps at a time, each on one core."""
    plan: bool = False
    """Only say what would be done."""
    page: bool = False
    """Only write the page again, from the results that are there."""
    part: PartName | None = None
    """Only what this part of the page needs; its numbers go to standard output, and no page is written."""
    rehearsal: bool = False
    """Everything in minutes, with numbers that say nothing; results, page and figures are written into --out."""
    step: str | None = None
    """Do this one step in this process (what the command itself starts)."""


def main(argv: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 a step failed, 2 bad input, 130 and 143 interrupted and terminated."""
    try:
        arguments = read_flags(Arguments, argv, "python -m bench.paper", __doc__)
        if not 1 <= arguments.workers <= 64:
            raise InputError(f"--workers is {arguments.workers}; give 1 to 64")
        with terminable():
            return _obey(arguments)
    except (InputError, EngineDead, OSError) as error:
        tell(error)
        return 2 if isinstance(error, InputError) else 1
    except KeyboardInterrupt as stop:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return exit_code(stop)


def _obey(arguments: Arguments) -> int:
    out = arguments.out or Path("runs/paper_rehearsal" if arguments.rehearsal else "runs/paper")
    files = Files(out / "paper.json", out / "paper.md", out / "figures") if arguments.rehearsal else Files()
    if arguments.page:
        _write_page(files)
        return 0
    from bench.paper import plan  # brings torch, which --help does without
    from bench.paper.steps import Steps, python

    scale = plan.REHEARSAL if arguments.rehearsal else plan.Scale()
    steps = Steps(plan.steps(scale), out)
    if arguments.part is not None:
        steps = steps.only(plan.PARTS[arguments.part])
    if arguments.step is not None:
        steps.perform(arguments.step)
        return 0
    left = steps.left()
    say(*steps.table())
    minutes = sum(step.minutes for step in left) / arguments.workers
    say(f"{len(left)} of {len(steps.all)} steps left, about {minutes:.0f} minutes with {arguments.workers} at a time")
    if arguments.plan:
        return 0
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    more = ["--rehearsal"] * arguments.rehearsal

    def command(name: str) -> list[str]:
        return python("bench.paper", "--step", name, "--out", str(out), *more)

    with sole_writer(out):
        steps.run(command, arguments.workers, say)
        from bench.paper import results

        if arguments.part is not None:
            print(results.part(out, scale, arguments.part))
        else:
            results.collect(out, scale, steps, files.results)
            _write_page(files)
    return 0


def say(*lines: str) -> None:
    """On standard error, at once."""
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def _write_page(files: Files) -> None:
    from bench.paper import page  # brings matplotlib

    page.write(files.results, files.page, files.figures)
    say(f"{files.page}, from {files.results}")


if __name__ == "__main__":
    sys.exit(main())
