"""`python -m engine.serve`: a model over HTTP, with live control and a playground at /.

    python -m engine.serve --model models/s1-nano --port 8000 --thinking-token-budget 512

Exit codes: 0 told to end, 1 an engine died, 2 bad input (one line on standard error), 130 interrupted while it started.
"""

import sys
from collections.abc import Sequence
from importlib.util import find_spec

from engine.command.stop import exit_code, stopped
from engine.errors import EngineDead, InputError, tell


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    missing = [name for name in ("prometheus_client", "starlette", "uvicorn") if find_spec(name) is None]
    try:
        if missing:
            raise InputError(f"the server needs {' and '.join(missing)}: pip install -e '.[server]' in the checkout")
        from engine.serve.program import serve  # behind the check, as it imports them

        return serve(sys.argv[1:] if argv is None else argv)
    except InputError as error:
        tell(error)
        return 2
    except EngineDead as error:
        tell(error)
        return 1
    except KeyboardInterrupt as stop:
        print(stopped(stop), file=sys.stderr)
        return exit_code(stop)


if __name__ == "__main__":
    sys.exit(main())
