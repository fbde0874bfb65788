"""The parent's side of a timing worker: one engine with one checkpoint in a process of its own, driven over a pipe.

Protocol, one JSON object per line. First line in: {"checkpoint", "dtype", "device", "threads", "max_model_len",
"max_num_seqs", "dummy", "engine"}; answer: {"version"}. Then jobs {"prompts": [[token id]], "tokens": n}: every prompt
is continued greedily to exactly n tokens; answer: {"seconds", "tokens": in all}. The worker ends when its input does.
This project's engine also answers {"prompts", "window": steps, "ahead": steps}: see `bench.peers.engine_worker`.
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.processes import ends_with_its_parent

_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What every worker of a comparison gets alike."""

    checkpoint: str
    dtype: str
    device: str
    threads: int
    max_model_len: int
    max_num_seqs: int
    dummy: bool
    """Random weights made on the device; the checkpoint has none."""
    engine: Mapping[str, str] = field(default_factory=dict)
    """More fields of EngineConfig, for this project's engine alone."""


class WorkerFailed(RuntimeError):
    """The worker ended, or did not answer in time. The message has the last lines it wrote."""


class Worker(AbstractContextManager["Worker"]):
    """A running worker. `python` is the interpreter that has the engine: `program` alone decides which engine it is.

    Its processes are stopped while nothing is asked of them: engines poll and spin between requests (vLLM's worker
    takes half a core), at the cost of the one whose turn it is.
    """

    def __init__(
        self,
        program: str,
        setup: Setup,
        log: Path,
        python: str = sys.executable,
        start_seconds: float = 400,
        variables: Mapping[str, str] = MappingProxyType({}),
    ):
        """`variables` go into its environment."""
        self.name = program.split("_worker")[0]
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [python, str(_ROOT / "bench" / "peers" / program)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**_environment(setup, python), **variables},
                cwd=_ROOT,
                process_group=0,
                preexec_fn=ends_with_its_parent,
            )
        self.version = str(self._ask(asdict(setup), start_seconds)["version"])

    def run(self, prompts: list[list[int]], tokens: int, seconds: float = 600, **extra: Any) -> float:
        """Seconds to continue all prompts by `tokens`. Raises WorkerFailed where it made another number of them."""
        answer = self._ask({"prompts": prompts, "tokens": tokens, **extra}, seconds)
        if answer["tokens"] != tokens * len(prompts):
            raise WorkerFailed(f"{self.name} wrote {answer['tokens']} tokens of {tokens * len(prompts)}")
        return float(answer["seconds"])

    def window(
        self, prompts: list[list[int]], steps: int, ahead: int, seconds: float = 600, **extra: Any
    ) -> tuple[list[float], float]:
        """This project's engine: (seconds of `steps` steps in which all prompts decode and none is prefilled, keys that
        they saw per step). `ahead`: steps that prompts may decode before the last of them does. Raises WorkerFailed
        where there were fewer."""
        answer = self._ask({"prompts": prompts, "window": steps, "ahead": ahead, **extra}, seconds)
        if len(answer["steps"]) != steps:
            raise WorkerFailed(
                f"{self.name}: all {len(prompts)} prompts decoded in {len(answer['steps'])} steps only, "
                f"not in {steps}; they do not fit in memory together"
            )
        return answer["steps"], float(answer["keys"])

    def __exit__(self, *exc: object) -> None:
        """End the worker; kill it where it does not end by itself within 20 seconds."""
        self._signal(signal.SIGCONT)
        try:
            self._process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.communicate()

    def _signal(self, number: signal.Signals) -> None:
        """To the worker and the processes that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _ask(self, message: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._signal(signal.SIGCONT)
        with suppress(BrokenPipeError):  # it has ended, as the line that it does not answer says
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        # one answer line per message, so nothing is ever left over in a buffer behind select's back
        if not select.select([self._process.stdout], [], [], seconds)[0]:
            raise self._failed(f"gave no answer within {seconds:.0f} s")
        if not (line := self._process.stdout.readline()):
            raise self._failed("ended")
        self._signal(signal.SIGSTOP)
        return json.loads(line)

    def _failed(self, what: str) -> WorkerFailed:
        self._signal(signal.SIGKILL)
        self._process.wait()
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return WorkerFailed(f"{self.name} {what}; its last words: {' | '.join(lines[-3:]) or 'none'}")


def _environment(setup: Setup, python: str) -> dict[str, str]:
    """Same threads for all; the OpenMP runtime that vLLM asks for is preloaded where its environment has it."""
    env = os.environ | {"OMP_NUM_THREADS": str(setup.threads), "HF_HUB_OFFLINE": "1"}
    paths = env.pop("PYTHONPATH", "")
    if Path(python) == Path(sys.executable):
        return env | {"PYTHONPATH": os.pathsep.join(filter(None, [str(_ROOT), paths]))}
    intel = Path(python).parent.parent / "lib" / "libiomp5.so"
    return env | ({"LD_PRELOAD": str(intel)} if intel.exists() else {})
