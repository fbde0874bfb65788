"""What every request passes before a route sees it, and every error on its way out."""

import contextlib
import hashlib
import hmac
import json
import re
import sys
import time
import traceback
from collections.abc import Callable, Coroutine, Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec
from starlette.exceptions import HTTPException
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from engine.errors import plain
from engine.serve.errors import HttpError
from engine.serve.exchange import Exchange, Gone
from engine.serve.metrics import Metrics

_OPEN = ("/", "/health", "/health/ready")
"""What needs no key: the page itself says nothing of the model."""
_PREFLIGHT = [
    (b"access-control-allow-methods", b"GET, POST, DELETE"),
    (b"access-control-allow-headers", b"authorization, content-type, x-api-key, x-request-id"),
    (b"access-control-max-age", b"600"),
]


class Door:
    """An ASGI application around the routes."""

    def __init__(
        self,
        routes: Router,
        metrics: Metrics,
        keys: Sequence[str],
        origins: Sequence[str],
        local: bool,
        log_json: bool,
    ) -> None:
        """`local`: the server listens where only this machine can come, so other names for it are a trick."""
        self._routes, self._metrics = routes, metrics
        self._keys = [_digest(key) for key in keys]
        self._origins, self._local, self._log_json = frozenset(origins), local, log_json
        self.open = 0
        """Requests that have not been answered in full."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Other kinds of connections are not answered."""
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        scope["app"], scope["exchange"] = self, exchange  # with an app, the router raises what it does not find
        self.open += 1
        try:
            self._admit(exchange)
            if exchange.method == "OPTIONS" and exchange.more:  # a page of another origin asks whether it may
                await exchange.whole(204, b"", _PREFLIGHT)
            else:
                await self._routes(scope, receive, send)
        except Gone:
            exchange.status = exchange.status or 499
            exchange.notes["error"] = "the client has gone"
        except HTTPException as error:
            names = {
                404: f"{exchange.path} is no route of this server",
                405: f"{exchange.path} takes no {exchange.method}",
            }
            await self._fail(exchange, HttpError(error.status_code, names.get(error.status_code, error.detail)))
        except Exception as error:
            failed = HttpError.of(error)
            if failed.status == 500:
                with contextlib.suppress(OSError):
                    print(f"{exchange.identity}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            await self._fail(exchange, failed)
        finally:
            self.open -= 1
            self._metrics.replies.labels(str(exchange.status)).inc()
            self._log(exchange)

    async def _fail(self, exchange: Exchange, error: HttpError) -> None:
        # Of a refusal its kind and our own name of the field: the message may hold what was asked.
        named = error.param if error.param is not None and re.fullmatch(r"[\w.\[\]]{1,60}", error.param) else None
        exchange.notes["error"] = plain(error.message, 200) if error.status != 400 else f"refused: {named or 'body'}"
        await exchange.fail(error, exchange.path.startswith("/v1/messages"))

    def _admit(self, exchange: Exchange) -> None:
        """Raises HttpError where the request may not come in."""
        host, origin = exchange.headers.get("host", ""), exchange.headers.get("origin")
        if {"content-length", "transfer-encoding"} <= exchange.headers.keys():
            exchange.more.append((b"connection", b"close"))
            raise HttpError(400, "Content-Length and Transfer-Encoding contradict each other; send one")
        if self._local and not self._keys and not _is_here(_parts(f"//{host}").hostname):
            raise HttpError(403, "the Host header names another machine; come to localhost, or set API keys")
        if origin in self._origins:
            exchange.more += [(b"access-control-allow-origin", origin.encode()), (b"vary", b"Origin")]
        elif origin is not None and _parts(origin).netloc != host:
            raise HttpError(403, "pages of this origin may not use the server; see --allowed-origins")
        if exchange.method == "OPTIONS":
            return  # it brings neither a key nor a body
        if self._keys and exchange.path not in _OPEN and not exchange.path.startswith("/static/"):
            exchange.owner = self._owner(exchange)
        json_body = exchange.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"
        if exchange.method == "POST" and not json_body:
            raise HttpError(415, "Content-Type is not application/json; send JSON, and say so")

    def _owner(self, exchange: Exchange) -> bytes:
        """The digest of the key that came. All are compared, so that time tells nothing."""
        scheme, _, bearer = exchange.headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else exchange.headers.get("x-api-key", "")
        digest = _digest(given)
        if sum(hmac.compare_digest(digest, key) for key in self._keys) == 0:
            raise HttpError(
                401, "the API key is missing or wrong; send Authorization: Bearer KEY", code="invalid_api_key"
            )
        return digest

    def _log(self, exchange: Exchange) -> None:
        """One line, without what was asked or answered."""
        line: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "id": exchange.identity,
            "method": exchange.method,
            "path": exchange.asked,
            "status": exchange.status,
            "ms": round(1000 * (time.monotonic() - exchange.started), 1),
            **exchange.notes,
        }
        if self._log_json:
            text = json.dumps(line)
        else:
            text = " ".join(f"{value}" if name in _SHORT else f"{name}={value}" for name, value in line.items())
        with contextlib.suppress(OSError):  # a full disk, or nobody who reads: no request may fail of it
            print(text, file=sys.stderr, flush=True)


_SHORT = ("time", "id", "method", "path", "status")


class Posted:
    """A route that takes a body."""

    def __init__(
        self,
        body: Any,
        handle: Callable[[Any, Exchange], Coroutine[Any, Any, None]],
        most: int,
        within: float,
        stall: float,
    ) -> None:
        """`body` is its type; it has at most `most` bytes and comes `within` s; who does not read for `stall` s has
        gone."""
        self._decoder = msgspec.json.Decoder(body)
        self._handle, self._most, self._within, self._stall = handle, most, within, stall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read, decode, and do it until the client has gone."""
        exchange: Exchange = scope["exchange"]
        exchange.parameters = scope.get("path_params", {})
        body = self._decode(await exchange.read(self._most, self._within))
        await exchange.while_there(self._handle(body, exchange), self._stall)

    def _decode(self, data: bytes) -> Any:
        try:
            return self._decoder.decode(data)
        except msgspec.ValidationError as error:
            message, _, place = str(error).partition(" - at `$")
            place = place.rstrip("`").lstrip(".")
            _, _, name = message.partition(" field `")  # unknown or missing, in the object at the place
            field = ".".join(filter(None, (place, plain(name.rstrip("`"), 100))))
            raise HttpError(400, f"{place}: {message}" if place else message, param=field or None) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise HttpError(400, "the body is no JSON that can be read; check its quotes, numbers and UTF-8") from None


def _parts(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise HttpError(400, "the Host or the Origin header is no name of a machine") from None


def _is_here(name: str | None) -> bool:
    """Whether a name can only be this machine's: no name of the network's can be an address."""
    try:
        return name == "localhost" or ip_address(name or "").is_loopback
    except ValueError:
        return False


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
