"""`python -m engine.serve`: a model over HTTP, with live control and a playground at /.

    python -m engine.serve --model models/s1-nano --port 8000 --thinking-token-budget 512

Exit codes: 0 told to end, 1 an engine died, 2 bad input (one line on standard error).
"""

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config import EngineConfig
from engine.errors import EngineDead, InputError, tell
from engine.model.checkpoint import resolve
from engine.model.generation_config import default_params
from engine.ranks.torchrun import torchrun
from engine.request import SamplingParams
from engine.serve.door import Door
from engine.serve.life import Life, listen
from engine.serve.metrics import Metrics
from engine.serve.options import Options, parse
from engine.serve.routes import router
from engine.serve.served import Served
from engine.serve.service import Service


@dataclass(frozen=True)
class Job:
    """What a command line asks for, checked as far as that takes no model."""

    options: Options
    keys: tuple[str, ...]
    config: EngineConfig
    directory: Path
    base: SamplingParams
    listening: socket.socket


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    try:
        job = _job(parse(sys.argv[1:] if argv is None else argv))
        with job.listening:
            return asyncio.run(_serve(job))
    except InputError as error:
        tell(error)
        return 2
    except EngineDead as error:
        tell(error)
        return 1


def _job(options: Options) -> Job:
    if torchrun().size > 1:
        raise InputError("the server was started under torchrun; start it alone, with --tensor-parallel-size")
    keys = options.keys(os.environ)
    config = options.engine_config()
    directory = resolve(config.model)
    base = options.sampling_params(default_params(directory, config.generation_config))
    listening = listen(options.host, options.port)
    if not options.local and not keys:
        tell(f"anybody who reaches {options.host} may use the server; set API keys (--api-key-file)", "warning")
    return Job(options, keys, config, directory, base, listening)


async def _serve(job: Job) -> int:
    options = job.options
    service = Service(job.config, job.directory, job.base, options.data_parallel_size)
    metrics = Metrics(service)
    door = Door(
        router(Served(options, service, metrics)),
        metrics,
        job.keys,
        options.allowed_origins,
        options.local,
        options.log_json,
    )
    return await Life(options, service, door, job.listening).run()


if __name__ == "__main__":
    sys.exit(main())
