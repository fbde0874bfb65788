"""One grading process: what `Pool.run` takes in, verdicts out, a JSON line each, under limits that the kernel enforces.

    python -m curate.grading.worker CPU_LIMIT_S WALL_LIMIT_S MEMORY_LIMIT_MB

The limits are per pair. Processor time is what counts, so that a busy machine changes no verdict; the wall's is for
what waits without computing. It ends by itself when its parent goes away: at the end of its input, or at a limit.
"""

import json
import os
import resource
import signal
import sys
from contextlib import suppress
from typing import Any

from curate.grading.checker import checker
from curate.grading.checker import verdict as verdict_of_own
from curate.grading.compare import equal
from engine.errors import InputError

LONGEST_READING = 2_000
"""Characters of what an answer was read as."""


def main() -> None:
    """Read pairs from standard input, write a verdict for each, until one exceeds the limits or the input ends."""
    cpu_limit, wall_limit, memory_limit = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (memory_limit, memory_limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGPROF, signal.SIGALRM):  # either ends the process, also in the middle of C code
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    # Nothing but verdicts may reach the pipe, whatever a checker writes or starts: what it would inherit leads nowhere.
    tasks, out = (os.fdopen(os.dup(number), mode) for number, mode in ((0, "r"), (1, "w")))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(nowhere, standard)
    mine = os.getpid()

    equal("x^2+x", "x(x+1)")  # what the first comparison builds must not be charged to whichever answer comes first
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in tasks:
        asked = json.loads(line)
        if len(asked) == 4:
            with suppress(InputError):  # which comes again below; what is imported is charged to no answer
                checker(asked[0])
        signal.setitimer(signal.ITIMER_PROF, cpu_limit)
        signal.setitimer(signal.ITIMER_REAL, wall_limit)
        try:
            verdict = _compared(*asked) if len(asked) == 2 else _called(*asked)
        except MemoryError:
            verdict = {"correct": False, "rule": "grader_memory", "detail": f"more than {memory_limit >> 20} MiB"}
        except RecursionError:
            verdict = {"correct": False, "rule": "grader_depth", "detail": "nested too deeply"}
        except Exception as error:
            # A fault of ours must not end a run of thousands of answers; the row says what it was.
            wrong = False if len(asked) == 2 else None  # a function that fails has not judged
            verdict = {"correct": wrong, "rule": "grader_error", "detail": f"{type(error).__name__}: {error}"[:300]}
        if os.getpid() != mine:  # a checker has forked, and this is the other one
            os._exit(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(verdict), file=out, flush=True)
        if verdict["rule"] == "grader_memory":
            return


def _compared(gold: str, given: str) -> dict[str, Any]:
    found = equal(gold, given)
    read_as = {"gold": found.gold[:LONGEST_READING], "given": found.given[:LONGEST_READING]}
    return {"correct": found.correct, "rule": found.rule, "detail": ""} | read_as


def _called(name: str, answer: str, reference: str, question: str) -> dict[str, Any]:
    said = verdict_of_own(name, answer, reference or None, question)
    return {"correct": said, "rule": "python", "detail": "" if said is not None else f"{name} could not tell"}


if __name__ == "__main__":
    main()
