"""From the first breath to the last: it listens while the model loads, and ends no request that has time to finish."""

import asyncio
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn

from engine.errors import EngineDead, InputError, tell
from engine.serve.door import Door
from engine.serve.options import Options
from engine.serve.protocol import TimelyProtocol
from engine.serve.service import Service, State

_HEADER_BYTES = 1 << 16
_POLL_S = 0.05
_TOLD_S = 2.0
"""How long clients have to hear that their requests do not finish."""


class Life:
    """Of one server."""

    def __init__(self, options: Options, service: Service, door: Door, listening: socket.socket) -> None:
        self._options, self._service, self._door, self._socket = options, service, door, listening
        self._signals, self._code = 0, 0
        self._told = asyncio.Event()
        self._server = _Server(
            uvicorn.Config(
                door,
                http=type(
                    "Protocol",
                    (TimelyProtocol,),
                    {"head_s": options.read_timeout, "stall_s": options.stall_timeout},
                ),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                h11_max_incomplete_event_size=_HEADER_BYTES,
                limit_concurrency=options.max_waiting + 1024,
                timeout_graceful_shutdown=5,
            ),
            self.told,
        )

    async def run(self) -> int:
        """Serve until told to end; returns the exit code."""
        serving = asyncio.create_task(self._server.serve(sockets=[self._socket]))
        loading = asyncio.create_task(self._service.load(self._over))
        told = asyncio.create_task(self._told.wait())
        await asyncio.wait((loading, told, serving), return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            loading.cancel()
        try:
            await loading
            tell(f"{self._options.names[0]} is served at {address(self._socket)}", "ready")
            await asyncio.wait((told, serving), return_when=asyncio.FIRST_COMPLETED)
            await self._drain()
        except asyncio.CancelledError:  # told to end before it was ready
            pass
        except (InputError, EngineDead) as error:
            tell(error)
            self._code = 2 if isinstance(error, InputError) else 1
        told.cancel()
        self._server.should_exit = True
        await serving
        await self._service.replicas.close()
        return self._code

    def told(self) -> None:
        """A signal: the first lets what runs finish, the next does not."""
        self._signals += 1
        self._told.set()

    def _over(self, error: EngineDead) -> None:
        """No engine is left."""
        self._code, self._signals = 1, 2
        self._told.set()

    async def _drain(self) -> None:
        service, door, given = self._service, self._door, self._options.shutdown_timeout
        service.state = State.DRAINING
        if door.open and self._signals == 1:
            tell(f"{door.open} requests have {given:g} s to finish", "ending")
        await self._until(given, lambda: not door.open or self._signals > 1)
        service.replicas.fail(EngineDead("the server ends before the request has finished"))
        await self._until(_TOLD_S, lambda: not door.open)

    async def _until(self, seconds: float, done: Callable[[], bool]) -> None:
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            await asyncio.sleep(_POLL_S)


class _Server(uvicorn.Server):
    """uvicorn, whose signals are told to somebody else."""

    def __init__(self, config: uvicorn.Config, told: Callable[[], None]) -> None:
        super().__init__(config)
        self._told = told

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come, in the main thread, between two of its steps."""
        asyncio.get_running_loop().call_soon_threadsafe(self._told)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises InputError where it cannot."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(place)
            listening.listen(2048)
        except BaseException:
            listening.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(f"cannot listen at {host}, port {port}: {error}; choose another --port or --host") from None
    return listening


def address(listening: socket.socket) -> str:
    """Its URL."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
