"""One grading process: pairs of answers in, verdicts out, a JSON line each, under limits that the kernel enforces.

    python -m curate.grading.worker CPU_LIMIT_S WALL_LIMIT_S MEMORY_LIMIT_MB

The limits are per pair. Processor time is what counts, so that a busy machine changes no verdict; the wall's is for
what waits without computing. It ends by itself when its parent goes away: at the end of its input, or at a limit.
"""

import json
import logging
import resource
import signal
import sys


def main() -> None:
    """Read pairs from standard input, write a verdict for each, until one exceeds the limits or the input ends."""
    cpu_limit, wall_limit, memory_limit = float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (memory_limit, memory_limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGPROF, signal.SIGALRM):  # either ends the process, also in the middle of C code
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    logging.disable(logging.CRITICAL)  # math-verify logs every answer that it cannot read
    out = sys.stdout
    sys.stdout = sys.stderr  # nothing but verdicts may reach the pipe

    # After the limits: SymPy takes a second to import and must not be able to exceed them either.
    from curate.grading.rules import equal

    # What is imported and built at the first comparison must not be charged to whichever answer comes first.
    equal("x^2+x", "x(x+1)")
    print(json.dumps({"ready": True}), file=out, flush=True)
    for line in sys.stdin:
        gold, given = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, cpu_limit)
        signal.setitimer(signal.ITIMER_REAL, wall_limit)
        try:
            correct, rule = equal(gold, given)
            verdict = {"correct": correct, "rule": rule, "detail": ""}
        except MemoryError:
            verdict = {"correct": False, "rule": "grader_memory", "detail": f"more than {memory_limit >> 20} MiB"}
        except RecursionError:
            verdict = {"correct": False, "rule": "grader_depth", "detail": "nested too deeply"}
        except Exception as error:
            # SymPy and its parser raise nearly anything on text they were not made for; the row says what it was.
            verdict = {"correct": False, "rule": "grader_error", "detail": f"{type(error).__name__}: {error}"[:300]}
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(json.dumps(verdict), file=out, flush=True)
        if verdict["rule"] == "grader_memory":
            return


if __name__ == "__main__":
    main()
