"""Accuracy against thinking tokens, from a grid to the figure; kill it at any point and run the command again.

    python -m bench.evaluate bench/grids/s1_nano.yaml --out runs/s1_nano
    python -m bench.evaluate --task s1_nano --count 200 --budgets 16 64 256 --waits 0 2
    python -m bench.evaluate status | grade | report | plot | browse FOLDER
    python -m bench.evaluate grade FOLDER --explain PROBLEM
    python -m bench.evaluate compare FOLDER OTHER

The first two run what is missing, grade it, and write report.md, report.json, figures and samples.html into the folder;
the others do one of these again, without a model. docs/evaluation.md tells the rest.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

from bench.evaluation.options import CompareOptions, FolderOptions, GradeOptions, RunOptions
from engine.command.flags import read_flags
from engine.command.stop import exit_code, terminable
from engine.errors import EngineDead, InputError, tell

MAX_WORKERS = 1024
"""Each is a process."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code: 0 done, 1 the engine or a disk failed, 2 bad input, 130 and 143
    interrupted and terminated."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    folders = dict.fromkeys(("status", "report", "plot", "browse"), FolderOptions)
    kinds = {**folders, "grade": GradeOptions, "compare": CompareOptions}
    name = next((word for word in arguments[:1] if word in kinds), "")
    try:
        options: Any = read_flags(
            kinds.get(name, RunOptions),
            arguments[1:] if name else arguments,
            f"python -m bench.evaluate {name}".rstrip(),
            None if name == "compare" else __doc__,
        )
        workers = getattr(options, "workers", 1)
        if not 1 <= workers <= MAX_WORKERS:
            raise InputError(f"--workers is {workers}; give 1 to {MAX_WORKERS}")
        from bench.evaluation.commands import obey  # brings torch and matplotlib, which --help does without

        with terminable():
            obey(name, options)
            sys.stdout.flush()
        return 0
    except (InputError, EngineDead) as error:
        tell(error)
        return 2 if isinstance(error, InputError) else 1
    except OSError as error:  # a full disk, a folder that has gone, or whoever read standard output has
        if not isinstance(error, BrokenPipeError):
            tell(f"{error}; what has finished is kept, the same command goes on from it")
        if sys.stdout is not None:  # nothing may be written to it at exit either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MemoryError:
        print("error: out of memory; what has finished is kept, the same command goes on from it", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print("stopped; the same command goes on where it ended", file=sys.stderr)
        return exit_code(stop)


if __name__ == "__main__":
    sys.exit(main())
