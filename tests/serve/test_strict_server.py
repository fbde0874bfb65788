"""Clients without a key, slow ones, and those that go away: on a server with keys, one seat and no patience."""

import json
import re
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx2
import pytest

from tests.serve.bad_inputs import CHAT, COMPLETIONS
from tests.serve.raw_socket import chunked, connect, exchanged, post, rest, status
from tests.serve.running_server import RunningServer
from tests.serve.visits import is_well, new_client, resident

KEYS = ("first-key-of-two", "another-key-of-two")
QUESTION = {"messages": [{"role": "user", "content": "1 + 1?"}], "max_tokens": 16}
LENGTHY = {**QUESTION, "ignore_eos": True, "max_tokens": 2000, "temperature": 1}
LENGTHY_TEXT = {"prompt": "1 + 1?", "ignore_eos": True, "max_tokens": 2000, "temperature": 1}
_JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def strict() -> Iterator[RunningServer]:
    """A server with keys and without patience."""
    flags = ("--read-timeout", "0.5", "--stall-timeout", "1", "--max-num-seqs", "1")
    with RunningServer(*flags, environment={"S1_API_KEYS": ",".join(KEYS)}) as running:
        yield running


@pytest.fixture(scope="module")
def strict_http(strict: RunningServer) -> Iterator[httpx2.Client]:
    """Requests to the strict one."""
    with new_client(strict, **{"x-api-key": KEYS[0]}) as client:
        yield client


@pytest.mark.parametrize("head", [chunked(CHAT), post(CHAT, b" " * 1000)[:-999]], ids=["in chunks", "of a length"])
def test_a_body_that_does_not_come_is_not_waited_for(head, strict):
    def slowly() -> Iterator[bytes]:
        yield head.replace(b"Host:", f"Authorization: Bearer {KEYS[0]}\r\nHost:".encode())
        for _ in range(4):
            time.sleep(0.2)
            yield b"1\r\n \r\n" if b"chunked" in head else b" "

    started = time.monotonic()
    reply = exchanged(strict.url, slowly())
    assert status(reply) == 408 and b'"timeout_error"' in reply
    assert time.monotonic() - started < 5


HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize("said", [b"", HEAD, HEAD + b"\r\n" + HEAD], ids=["nothing", "half a head", "and a half"])
def test_who_says_nothing_is_cut_off(strict, said):
    started = time.monotonic()
    reply = exchanged(strict.url, said)
    assert (b"200 OK" in reply) == (said.count(b"GET") == 2)
    assert 0.4 < time.monotonic() - started < 10


def test_a_key_is_needed_whole_and_everywhere(strict):
    key = KEYS[0]
    wrong = [None, "", "Bearer", f"Bearer {key[:-1]}", f"Bearer {key}x", f"Basic {key}", f"Bearer {key.upper()}", key]
    wrong += [f"Bearer {','.join(KEYS)}", "Bearer \xff" * 3, f"Bearer {'x' * 10_000}"]
    with new_client(strict) as nobody:
        schema = nobody.get("/openapi.json", headers={"Authorization": f"Bearer {key}"}).json()
        paths = [*schema["paths"], "/v1/requests/x", "/nowhere"]
        free = ["/", "/health", "/health/ready", "/static/style.css"]
        assert len(paths) > 15
        for path in (path for path in paths if path not in (*free, "/static/{name}")):
            for given in wrong:
                fields = {**_JSON, **({} if given is None else {"Authorization": given.encode("latin-1")})}
                for method in ("GET", "POST", "DELETE"):
                    reply = nobody.request(method, path, headers=fields, content=b"{}")
                    assert reply.status_code == 401, (method, path, given, reply.text)
                    assert key not in reply.text and reply.headers["www-authenticate"] == "Bearer"
                if path not in (CHAT, "/metrics"):
                    break  # one wrong key will do
        for path in free:
            assert nobody.get(path).status_code == 200
        for fields in ({"Authorization": f"Bearer {key}"}, {"Authorization": f"bearer  {KEYS[1]}"}, {"x-api-key": key}):
            assert nobody.post(CHAT, json=QUESTION, headers=fields).status_code == 200


def test_control_is_for_whoever_asked(strict_http):
    own, other = ({"Authorization": f"Bearer {key}"} for key in KEYS)
    with strict_http.stream("POST", CHAT, json={**LENGTHY, "n": 8, "stream": True}, headers=own) as reply:
        identity = reply.headers["x-s1-request"]
        assert re.fullmatch("chatcmpl-[0-9a-f]{32}", identity)  # of 128 random bits
        place = f"/v1/requests/{identity}"
        for action in ("end_thinking", "extend"):
            assert strict_http.post(f"{place}/control", json={"action": action}, headers=other).status_code == 404
        assert strict_http.delete(place, headers=other).status_code == 404
        assert strict_http.post(f"{place}x/control", json={"action": "extend"}, headers=own).status_code == 404
        assert strict_http.post(f"{place}/control", json={"action": "extend"}, headers=own).json()["ok"] is True
        for body in ({"action": "budget", "budget": -1}, {"action": "budget"}, {"action": "eval"}, {}, []):
            assert strict_http.post(f"{place}/control", json=body, headers=own).status_code == 400
        assert strict_http.delete(place, headers=own).status_code == 200
        assert "data: [DONE]" in reply.read().decode()
    assert strict_http.post(f"{place}/control", json={"action": "extend"}, headers=own).status_code == 404
    assert strict_http.delete(place, headers=own).status_code == 404


_PROMPTS = {"prompt": [[first + 5, *[7] * 1900] for first in range(64)], "max_tokens": 1}
WITHIN_S = 3.0
"""An abort takes a second at most where the machine has nothing else to do."""


@pytest.mark.parametrize(
    ("path", "body", "begun"),
    [
        pytest.param(CHAT, {**LENGTHY, "n": 64, "stream": True}, b"data: ", id="in its stream"),
        pytest.param(COMPLETIONS, {**LENGTHY_TEXT, "n": 64, "stream": True}, b"data: ", id="in a stream of texts"),
        pytest.param(CHAT, {**LENGTHY, "n": 64}, b"", id="before the first byte"),
        pytest.param(COMPLETIONS, _PROMPTS, b"", id="while its prompts are computed"),
    ],
)
def test_who_goes_away_leaves_nothing_behind(path, body, begun, strict, strict_http):
    lost = _lost(strict)
    with connect(strict.url) as connection:
        connection.sendall(post(path, json.dumps(body).encode(), f"x-api-key: {KEYS[0]}"))
        while begun and begun not in connection.recv(1 << 16):
            pass
        _until(lambda: _open(strict_http) > 0)
    _until(lambda: _open(strict_http) == 0 and _lost(strict) == lost + 1)
    is_well(strict_http)


def test_who_goes_away_in_the_queue_leaves_it(strict, strict_http):
    lost, key = _lost(strict), f"x-api-key: {KEYS[0]}"
    with connect(strict.url) as first:
        first.sendall(post(CHAT, json.dumps({**LENGTHY, "n": 64, "stream": True}).encode(), key))
        _until(lambda: _open(strict_http) == 1)
        with connect(strict.url) as second:
            second.sendall(post(CHAT, json.dumps(LENGTHY).encode(), key))
            _until(lambda: _open(strict_http) == 2)
        _until(lambda: _open(strict_http) == 1 and _lost(strict) == lost + 1)
        assert b"data: " in first.recv(1 << 20), "who has the seat keeps it"
    _until(lambda: _open(strict_http) == 0)
    is_well(strict_http)


def test_who_does_not_read_is_gone(strict, strict_http):
    """Nor does its stream pile up, neither here nor, once it counts as gone, in the system."""
    body = {**LENGTHY, "n": 8, "stream": True, "logprobs": True, "top_logprobs": 64}
    before, started = resident(strict), time.monotonic()
    with connect(strict.url, receive_bytes=4096) as connection:
        connection.sendall(post(CHAT, json.dumps(body).encode(), f"x-api-key: {KEYS[0]}"))
        _until(lambda: _open(strict_http) == 1)
        _until(lambda: _open(strict_http) == 0, 20)
        assert time.monotonic() - started > 1
        assert resident(strict) - before < 50_000_000
        _until(lambda: not _connected(strict, connection))
        assert b"[DONE]" not in rest(connection)
    is_well(strict_http)


def _open(http: httpx2.Client) -> int:
    found = re.search(r"^s1_open_requests (\d+)", http.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def _connected(server: RunningServer, client: socket.socket) -> bool:
    """Whether the server holds its end of a connection; what only the system still holds has the inode 0."""
    ends = tuple(f":{port:04X}" for port in (httpx2.URL(server.url).port, client.getsockname()[1]))
    held = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return any((line[1][-5:], line[2][-5:]) == ends and line[9] != "0" for line in held[1:])


def _lost(server: RunningServer) -> int:
    """Requests whose client went away."""
    return sum("the client has gone" in line for line in server.said)


def _until(holds: Callable[[], bool], within: float = WITHIN_S) -> None:
    end = time.monotonic() + within
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)
