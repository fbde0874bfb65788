"""A GPU day on this processor, with parts among its own that misbehave: what `test_rehearsal` starts as a process.

Arguments: the card, "some" or "whole", the folder of the results, the machine's folder. Prints a line of JSON: the
outcomes of the first call, those of the second.
"""

import importlib
import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bench import gpu_day
from bench.gpu.files import RESULTS
from bench.gpu.plan import PLANS, Part
from bench.gpu_day import Options, run
from bench.processes import descendants

LATER = {
    "compile",
    "tokens",
    "profile",
    "decode_int8",
    "decode_fp8_kv",
    "decode_fp8",
    "training",
    "training_7b_lora",
    "training_32b_slice",
    "client_loop",
    "operators",
    "peers",
}
"""Left to the whole rehearsal: they take most of its time, and misbehave no differently."""
MISBEHAVING = {
    "hangs": "import time\ntime.sleep(600)\n",
    "hungry": "import resource, torch\nresource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\ntorch.empty(2**34)\n",
    "litters": "from pathlib import Path\nimport sys\nfolder = Path(sys.argv[sys.argv.index('--output') + 1]).parent\n"
    "[(folder / f'plot{number}.png').write_bytes(b'x') for number in range(9)]\n",
}


def shorter(part: Part) -> Part:
    """The tuner with one product of few tokens, which Triton's interpreter takes seconds for."""
    few = (*part.arguments, "--only", "qkv", "--tokens", "1", "8")
    return replace(part, arguments=few) if part.module == "bench.gemm" else part


def kill_the_first(name: str, results: Path, lines: int) -> None:
    """Kill part `name` in the middle: as soon as it has written so many lines."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        text = results.read_text() if results.exists() else ""
        if text.count(f'"benchmark": "{name}"') >= lines:
            for pid in descendants(os.getpid()):
                os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.005)


def main() -> None:
    card, how, out, state = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    programs = state / "programs"
    programs.mkdir(parents=True)
    for name, text in MISBEHAVING.items():
        (programs / f"part_{name}.py").write_text(text)
    sys.path.insert(0, str(programs))
    os.environ["PYTHONPATH"] = f"{programs}:{gpu_day.record.ROOT}"
    parts = [part for part in PLANS[card] if how == "whole" or part.name not in LATER]
    parts = parts if how == "whole" else [shorter(part) for part in parts]
    bad = [Part(name, f"part_{name}", (), 2 if name == "hangs" else 60) for name in MISBEHAVING]
    parts[3:3] = bad
    options = Options(out=out, state=state, rehearse=card, minutes=14)  # type: ignore[arg-type]
    importlib.import_module("bench.gpu.cost")
    console = Console(width=120, file=sys.stderr)
    killer = threading.Thread(target=kill_the_first, args=("decode", out / RESULTS, 3), daemon=True)
    killer.start()
    first = run(options, console, tuple(parts), card)
    again = [part for part in parts if part.name not in MISBEHAVING]
    second = run(options, console, tuple(again), card)
    print(json.dumps([[(one.part, one.state, one.why) for one in outcomes] for outcomes in (first, second)]))


if __name__ == "__main__":
    main()
