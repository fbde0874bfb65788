"""The page at /: a few files of this package, kept in memory, with a policy that lets nothing else in."""

from pathlib import Path

from engine.serve.errors import HttpError
from engine.serve.exchange import Exchange

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
]
_TYPES = {".html": b"text/html", ".css": b"text/css", ".js": b"text/javascript"}


class Playground:
    """Its files by name."""

    def __init__(self) -> None:
        folder = Path(__file__).with_name("static")
        self._files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in _TYPES}

    async def index(self, exchange: Exchange) -> None:
        """GET /"""
        await self._send(exchange, "index.html")

    async def file(self, exchange: Exchange) -> None:
        """GET /static/{name}"""
        await self._send(exchange, exchange.parameters["name"])

    async def _send(self, exchange: Exchange, name: str) -> None:
        if name not in self._files:
            raise HttpError(404, "the playground has no such file")
        kind = (b"content-type", _TYPES[Path(name).suffix] + b"; charset=utf-8")
        await exchange.whole(200, self._files[name], [kind], _HEADERS)
