"""Clients of a running server, and what they leave behind."""

import resource
import time
from pathlib import Path

import httpx2

from tests.serve.bad_inputs import COMPLETIONS
from tests.serve.running_server import RunningServer


def new_client(server: RunningServer, **headers: str) -> httpx2.Client:
    """One for many requests: making it takes a tenth of a second. It lets go of a connection before the server does."""
    return httpx2.Client(base_url=server.url, headers=headers, timeout=60, limits=httpx2.Limits(keepalive_expiry=1))


def is_well(http: httpx2.Client) -> None:
    """The server answers, and once it rests every page is free."""
    reply = http.post(COMPLETIONS, json={"prompt": "1 + 1?", "max_tokens": 1})
    assert reply.status_code == 200, reply.text
    end = time.monotonic() + 20
    while True:
        (replica,) = http.get("/server_info").json()["replicas"]
        if not replica["running"] and not replica["waiting"] and replica["pages_free"] == replica["pages_total"]:
            return
        assert time.monotonic() < end, replica
        time.sleep(0.02)


def resident(server: RunningServer) -> int:
    """Bytes of memory that the process takes."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()
