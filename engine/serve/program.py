"""A command line of `engine.serve`, run: what it asks for is checked, then served."""

import asyncio
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.config import EngineConfig
from engine.errors import InputError, tell
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


def serve(argv: Sequence[str]) -> int:
    """Returns the exit code. Raises InputError for what cannot be used, EngineDead where no engine starts."""
    job = _job(parse(argv))
    with job.listening:
        return asyncio.run(_serve(job))


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
