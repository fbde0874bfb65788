"""The program of the process that can be killed: a JSON line in, a JSON line out, under limits that the kernel keeps.

    python engine/text/worker.py CPU_LIMIT_S WALL_LIMIT_S MEMORY_LIMIT_MIB

The first line says what to build: a chat template, or a tokenizer. It ends by itself when its parent goes away.
"""

import json
import resource
import signal
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    """Build what the first line says, then answer every line, until one exceeds the limits or the input ends."""
    cpu_limit, wall_limit, memory_limit = (int(limit) for limit in sys.argv[1:])
    resource.setrlimit(resource.RLIMIT_AS, (memory_limit << 20, memory_limit << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGPROF, signal.SIGALRM):  # either ends the process, also in the middle of C code
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    # The package without its own names, which would import torch.
    package = types.ModuleType("engine")
    package.__path__ = [str(Path(__file__).parents[1])]
    sys.modules["engine"] = package
    loaded = json.loads(sys.stdin.buffer.readline())
    answer: Callable[..., Any] | None = None
    for line in sys.stdin.buffer:
        signal.setitimer(signal.ITIMER_PROF, cpu_limit)
        signal.setitimer(signal.ITIMER_REAL, wall_limit)
        try:
            if answer is None:
                answer = template(**loaded) if "source" in loaded else tokenizer(**loaded)
            result = json.dumps({"value": answer(**json.loads(line))})
        except MemoryError:
            result = json.dumps({"error": f"{loaded['what']} needs more than {memory_limit} MiB"})
        except BaseException as error:  # Rust's panics are no Exception
            said = str(error)[:1000] or type(error).__name__
            ours = type(error).__name__ == "InputError"
            result = json.dumps({"error": said if ours else f"{loaded['what']} cannot be used: {said}"})
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.write(result + "\n")
        sys.stdout.flush()


def template(what: str, source: str, specials: dict[str, int], variables: dict[str, str]) -> Callable[..., Any]:
    """Renders messages with a chat template."""
    from engine.text.template_program import TemplateProgram

    return TemplateProgram(source, specials, variables, metered=False).render


def tokenizer(what: str, tokenizer_json: str) -> Callable[..., Any]:
    """Token ids of a text."""
    from tokenizers import Tokenizer

    encoder = Tokenizer.from_str(tokenizer_json)
    return lambda text: encoder.encode(text, add_special_tokens=False).ids


if __name__ == "__main__":
    main()
