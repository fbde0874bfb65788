"""Bytes to a server that no HTTP client would send."""

import contextlib
import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit


def connect(url: str, receive_bytes: int | None = None) -> socket.socket:
    """A connection; `receive_bytes`: what the system keeps of it for a reader that is slow."""
    place = urlsplit(url)
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(20)
    connection.connect((place.hostname, place.port))
    return connection


def exchanged(url: str, *parts: bytes | Iterable[bytes]) -> bytes:
    """What comes back until the server closes, which it may do before all parts are sent. Raises TimeoutError where it
    does not."""
    with connect(url) as connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                for some in [part] if isinstance(part, bytes) else part:
                    connection.sendall(some)
        return rest(connection)


def rest(connection: socket.socket) -> bytes:
    """What comes until the other side closes."""
    found = bytearray()
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(1 << 16):
            found += data
    return bytes(found)


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A whole request, after whose reply the server closes."""
    return _head("POST", path, "Content-Type: application/json", f"Content-Length: {len(body)}", *headers) + body


def chunked(path: str) -> bytes:
    """The head of a request whose body comes in chunks."""
    return _head("POST", path, "Content-Type: application/json", "Transfer-Encoding: chunked")


def get(path: str, *headers: str) -> bytes:
    """A request without a body, after whose reply the server closes."""
    return _head("GET", path, *headers)


def _head(method: str, path: str, *headers: str) -> bytes:
    lines = (f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers)
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"


def status(reply: bytes) -> int:
    """Of a reply as it came."""
    found = re.match(rb"HTTP/1.1 (\d+) ", reply)
    assert found is not None, reply[:200]
    return int(found[1])
