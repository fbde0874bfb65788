"""An engine in a process of its own, as the process that asks sees it."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TypeVar

import msgspec

from engine.config import EngineConfig
from engine.errors import EngineDead, InputError
from engine.messages import Command, End, decode_events, encode_commands
from engine.open_requests import Holder, OpenRequests
from engine.replicas.wire import HEAD_BYTES, Kind, Ready, frame, head
from engine.schedule.sequence import Admission, Prepared

_Held = TypeVar("_Held", bound=Holder)
_CLOSE_S = 5.0
"""How long an engine that was told to end has for it."""


class Replica:
    """Everything here runs on one event loop. `open` and `stats` may be read at any time."""

    def __init__(self, config: EngineConfig, environment: Mapping[str, str]) -> None:
        """`environment` is laid over this process's."""
        self._config, self._environment = config, environment
        self.open = OpenRequests()
        self.stats: dict[str, int] = {}
        self.ready: Ready | None = None
        self.dead: EngineDead | None = None
        """Why it takes no more requests."""
        self._commands: list[Command] = []
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> Ready:
        """Start the process and wait until its model is loaded. Raises InputError for a model that cannot be used,
        EngineDead where the process ends."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "engine.replicas.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # what a terminal tells its foreground is for this process
                env={**os.environ, **self._environment},
            )
        self._reader, self._writer = await asyncio.open_unix_connection(sock=ours)
        self._writer.write(frame(Kind.COMMANDS, msgspec.msgpack.encode(asdict(self._config))))
        try:
            kind, body = await self._next()
        except EngineDead as error:
            self._end(error)
            raise
        if kind is Kind.REFUSED:
            self._end(EngineDead("its model cannot be used"))
            raise InputError(body.decode())
        self.ready = msgspec.msgpack.decode(body, type=Ready)
        self.stats = self.ready.stats
        return self.ready

    async def run(self) -> EngineDead:
        """Give everybody what comes, until the process ends; then everybody who waits is told, and why is returned."""
        try:
            while True:
                kind, body = await self._next()
                if kind is Kind.EVENTS:
                    for ended in self.open.deliver(decode_events(body)):
                        self.tell(ended)
                elif kind is Kind.STATS:
                    self.stats = msgspec.msgpack.decode(body, type=dict[str, int])
        except Exception as error:
            dead = error if isinstance(error, EngineDead) else EngineDead(f"its events could not be taken: {error!r}")
            self._end(dead)
            return dead

    def submit(self, number: int, prepared: Prepared, place: int, make: Callable[[int], _Held]) -> _Held:
        """Queue a checked request under a `number` that no other has. Raises EngineDead where the process has ended."""
        if self.dead is not None:
            raise self.dead
        held = make(number)
        self.open[number] = held
        self.tell(Admission.of(number, prepared, self._config.seed, place))
        return held

    def tell(self, command: Command) -> None:
        """Commands of one turn of the event loop go together. An abort takes effect here at once."""
        if self.dead is not None:
            return
        if not self._commands:
            asyncio.get_running_loop().call_soon(self._flush)
        self._commands.append(command)
        if isinstance(command, End):
            self.open.abort([command])

    async def close(self) -> None:
        """End the process: what runs is aborted."""
        if self.dead is None:
            for number in list(self.open):
                self.tell(End(number))
            self._flush(closing=True)
        await asyncio.to_thread(self._ended, _CLOSE_S)
        self._end(EngineDead("the engine was closed before the request finished"))

    def kill(self) -> None:
        """End the process at once, if it was started."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return None if self._process is None else self._process.pid

    def _flush(self, closing: bool = False) -> None:
        commands, self._commands = self._commands, []
        if (commands or closing) and self.dead is None:
            self._writer.write(frame(Kind.COMMANDS, encode_commands(commands, closing)))

    async def _next(self) -> tuple[Kind, bytes]:
        try:
            size, kind = head(await self._reader.readexactly(HEAD_BYTES))
            return kind, await self._reader.readexactly(size)
        except (asyncio.IncompleteReadError, OSError):
            status = await asyncio.to_thread(self._ended, _CLOSE_S)
            raise EngineDead(f"the engine's process ended ({status})") from None

    def _ended(self, within: float) -> str:
        """How the process ended, which may take `within` s before it is made to."""
        assert self._process is not None
        try:
            status = self._process.wait(within)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        return f"exit code {status}" if status >= 0 else f"signal {-status}"

    def _end(self, error: EngineDead) -> None:
        self.dead = self.dead or error
        self._writer.close()
        self.kill()
        self.open.fail(error)
