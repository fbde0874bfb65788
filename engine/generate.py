"""`python -m engine.generate`: questions in, reasoning and answers out.

    python -m engine.generate --prompt "How many r in raspberry?" --thinking-token-budget 64
    python -m engine.generate --input questions.jsonl --output answers.jsonl --thinking-extensions 2

All input is checked before the model is loaded. Exit codes: 0 done, 1 the engine or a request failed, 2 bad input
(one line on standard error, nothing written), 130 and 143 interrupted and terminated (what had finished is in the
output file).
"""

import gc
import os
import sys
import time
from collections.abc import Sequence

from engine.command.arguments import parse
from engine.command.job import Job
from engine.command.stop import exit_code, stopped, terminable
from engine.errors import EngineDead, InputError, tell
from engine.ranks.torchrun import torchrun
from engine.timeline import Timeline

_LAST_WORDS_S = 10.0
"""How long a rank that need not speak waits for the one that does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    timeline = Timeline.of_process() if argv is None else Timeline()
    leads = speaks = True
    try:
        started = torchrun()
        leads, speaks = started.rank == 0, started.local_rank == 0
        arguments = parse(sys.argv[1:] if argv is None else argv)
        if not leads:  # under torchrun: serves rank 0, which reads the input and writes the output, then exits
            from engine.engine import Engine  # takes torch's seconds

            Engine(config=arguments.engine_config())
        job = Job.of(arguments)
        timeline.lap("interpreter, flags, input")
        os.environ.setdefault("S1_TRITON", "cuda")  # for the ranks that it starts too
        gc.disable()  # what imports make stays: looking through it again and again takes a fifth of their time
        from engine.run import run  # here, since it takes torch's seconds: not for --help, nor for bad input

        gc.enable()
        timeline.lap("imports")
        with terminable():
            return run(job, timeline)
    except InputError as error:
        if speaks:
            tell(error)
        else:  # one voice per machine, which torchrun does not let speak any more once another rank has ended
            time.sleep(_LAST_WORDS_S)
        return 2
    except EngineDead as error:
        tell(error)
        return 1
    except KeyboardInterrupt as stop:
        if leads:
            print(stopped(stop), file=sys.stderr)
        return exit_code(stop)
    except MemoryError:
        print("error: out of memory; what had finished is in the output file", file=sys.stderr)
        return 1
    except OSError as error:  # a full disk, or whoever read standard output has gone
        if not isinstance(error, BrokenPipeError):
            tell(error)
        if sys.stdout is not None:  # nothing may be written to it at exit either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(main())
