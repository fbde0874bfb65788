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

RESULTS, PAGE, FIGURES = Path("bench/results/paper.json"), Path("docs/paper.md"), Path("docs/figures")


PartName = Literal[
    "base", "figure1", "figure7", "table2", "sizes", "table8", "table3", "table4", "limits", "curation", "training"
]


@dataclass(frozen=True)
class Arguments:
    """What is done of it, and where."""

    out: Path = Path("runs/paper")
    """Folder of everything that is made on the way."""
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
    if arguments.page:
        _write_page(arguments)
        return 0
    from bench.paper import plan  # brings torch, which --help does without
    from bench.paper.steps import Steps, python

    scale = plan.REHEARSAL if arguments.rehearsal else plan.Scale()
    steps = Steps(plan.steps(scale), arguments.out)
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
        return python("bench.paper", "--step", name, "--out", str(arguments.out), *more)

    with sole_writer(arguments.out):
        steps.run(command, arguments.workers, say)
        from bench.paper import results

        if arguments.part is not None:
            print(results.part(arguments.out, scale, arguments.part))
        else:
            results.collect(arguments.out, scale, steps, _results(arguments))
            _write_page(arguments)
    return 0


def say(*lines: str) -> None:
    """On standard error, at once."""
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def _results(arguments: Arguments) -> Path:
    return arguments.out / "paper.json" if arguments.rehearsal else RESULTS


def _write_page(arguments: Arguments) -> None:
    from bench.paper import page  # brings matplotlib

    where = (arguments.out / "paper.md", arguments.out / "figures") if arguments.rehearsal else (PAGE, FIGURES)
    page.write(_results(arguments), *where)
    say(f"{where[0]}, from {_results(arguments)}")


if __name__ == "__main__":
    sys.exit(main())
