"""An endpoint that answers every request with one chosen reply, over a real socket."""

import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Reply:
    """`kind`: `plain`; `short` (less than announced); `closed` (nothing); `raw` (the body alone); `bomb` (4 GB in
    4 MB); `endless`."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "plain"


@cache
def bomb() -> bytes:
    """A deflate stream of 4 GB of spaces: one block that refers to nothing before it, many times over."""
    deflate = zlib.compressobj(wbits=-15)
    return (deflate.compress(b" " * (1 << 24)) + deflate.flush(zlib.Z_FULL_FLUSH)) * 256


class Server:
    """On a free port of the loopback, with threads of its own."""

    def __init__(self) -> None:
        self.reply = Reply(b"")
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                reply = outer.reply
                if reply.kind == "raw":
                    self.wfile.write(reply.body)
                if reply.kind in ("raw", "closed"):
                    return
                body = bomb() if reply.kind == "bomb" else reply.body
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.kind == "bomb":
                    self.send_header("Content-Encoding", "deflate")
                if reply.kind != "endless":
                    self.send_header("Content-Length", str(len(body) + 9 * (reply.kind == "short")))
                self.end_headers()
                self.wfile.write(body)
                while reply.kind == "endless":  # until the other side has enough
                    self.wfile.write(b" " * (1 << 20))

            def log_message(self, *parts: object) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, address: object) -> None:
                pass  # the client has gone

        self._server = Quiet(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, reply: Reply) -> str:
        """The base URL under which every request gets `reply` from now on."""
        self.reply = reply
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"
