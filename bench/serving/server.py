"""A server as a process of its own, this engine's or vLLM's, stopped while it is not its turn."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bench.peers.worker import Setup, WorkerFailed
from bench.processes import descendants, ends_with_its_parent
from bench.record import ROOT

_START_S, _END_S, _POLL_S = 400.0, 20.0, 0.1


@dataclass(frozen=True)
class Program:
    """How a server is started; which engine it has is decided here alone."""

    name: str
    python: str
    words: tuple[str, ...]
    ready: str
    """The path that answers 200 once it takes requests."""
    version: str
    """The path that tells its version, as JSON."""
    variables: Mapping[str, str]
    """Its environment."""

    @classmethod
    def engine(cls, setup: Setup) -> "Program":
        """`python -m engine.serve`"""
        words = ["-m", "engine.serve", "--device", setup.device, "--no-ui", *_words(setup)]
        variables = {"OMP_NUM_THREADS": str(setup.threads)}
        return cls("s1-engine", sys.executable, tuple(words), "/health/ready", "/server_info", os.environ | variables)

    @classmethod
    def vllm(cls, setup: Setup, python: str, flags: Sequence[str]) -> "Program":
        """vLLM's OpenAI server, run by the Python that has it, with the OpenMP runtime that it asks for. What the
        caller's environment says of it holds."""
        words = ["-m", "vllm.entrypoints.openai.api_server", "--disable-uvicorn-access-log", *_words(setup), *flags]
        defaults = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
        if setup.device == "cpu":
            defaults |= {
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": f"0-{setup.threads - 1}",
                "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
            }
        variables = {**defaults, **os.environ, "OMP_NUM_THREADS": str(setup.threads)}
        variables.pop("PYTHONPATH", None)
        intel = Path(python).parent.parent / "lib" / "libiomp5.so"
        if intel.exists():
            variables["LD_PRELOAD"] = str(intel)
        return cls("vllm", python, tuple(words), "/health", "/version", variables)


def _words(setup: Setup) -> list[str]:
    """Flags that both have."""
    given = {
        "model": setup.checkpoint,
        "served-model-name": "model",
        "dtype": setup.dtype,
        "max-model-len": setup.max_model_len,
        "max-num-seqs": setup.max_num_seqs,
        "load-format": "dummy" if setup.dummy else "auto",
        "host": "127.0.0.1",
    }
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


class Server(AbstractContextManager["Server"]):
    """A running server at `port`, on this machine alone."""

    def __init__(self, program: Program, setup: Setup, log: Path) -> None:
        """Returns once it takes requests; then it is stopped. Raises WorkerFailed, with its last words, where it does
        not come up."""
        self.name, self.port, self._log = program.name, _free_port(), log
        with log.open("w") as out:
            self._process = subprocess.Popen(
                [program.python, *program.words, "--port", str(self.port)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=program.variables,
                cwd=ROOT,
                process_group=0,
                preexec_fn=ends_with_its_parent,
            )
        self._wait(program.ready)
        self.version = str(json.loads(self._get(program.version))["version"])
        self._signal(signal.SIGSTOP)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """It runs within the block."""
        self._signal(signal.SIGCONT)
        try:
            yield
            if self._process.poll() is not None:
                raise self._failed("ended")
        finally:
            self._signal(signal.SIGSTOP)

    @property
    def cpu_seconds(self) -> tuple[float, float]:
        """What it has taken of the processor, in user and system time: its first process, which speaks HTTP, and all
        of them."""
        http = _cpu_seconds(self._process.pid)
        return http, http + sum(map(_cpu_seconds, descendants(self._process.pid)))

    def __exit__(self, *exc: object) -> None:
        """End it; kill it where it does not end by itself."""
        self._signal(signal.SIGCONT)
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self._signal(signal.SIGKILL)
        self._process.wait()

    def _wait(self, path: str) -> None:
        end = time.monotonic() + _START_S
        while True:
            with suppress(OSError):  # as HTTPError is
                self._get(path)
                return
            if self._process.poll() is not None or time.monotonic() > end:
                raise self._failed("did not come up")
            time.sleep(_POLL_S)

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as reply:
            return bytes(reply.read())

    def _signal(self, number: signal.Signals) -> None:
        """To it and the processes that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _failed(self, what: str) -> WorkerFailed:
        self._signal(signal.SIGKILL)
        self._process.wait()
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return WorkerFailed(f"{self.name} {what}; its last words: {' | '.join(lines[-3:]) or 'none'}")


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
