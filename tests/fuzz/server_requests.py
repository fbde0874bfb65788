"""Target: requests to a real server, made from the schema that it publishes, and the same with bytes lost."""

import ctypes
import json
import re
import signal
import subprocess
import sys
import time
from functools import cache
from typing import Any

import httpx2
from hypothesis import strategies as st

from tests.fuzz import checkpoint
from tests.fuzz.contract import Broken, check_line
from tests.fuzz.target import Target
from tests.fuzz.values import STRINGS, Raw, cut, cuts, dump, fragments

CONTROL = "/v1/requests/{id}/control"
_MODEL, _WITHIN_S = "s1-nano", 30.0
_BOUNDS = ("--max-model-len", "256", "--max-tokens", "32", "--max-samples", "4", "--max-prompts", "8")
"""Of the server, so that no request takes long."""
_DIE_WITH_PARENT = 1
Case = tuple[str, bytes]
"""Path and body."""


class _Server:
    """A process that ends with this one, however this one ends."""

    def __init__(self) -> None:
        log = checkpoint.scratch() / "server.log"
        with log.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "engine.serve", "--port", "0", *_BOUNDS],
                stdin=subprocess.DEVNULL,
                stderr=said,
                preexec_fn=lambda: ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL),
            )
        self._log, end = log, time.monotonic() + 120
        while (found := re.search(r"is served at (\S+)", log.read_text())) is None:
            if self.process.poll() is not None or time.monotonic() > end:
                raise Broken(f"the server does not start: {log.read_text()}")
            time.sleep(0.05)
        self.http = httpx2.Client(
            base_url=found[1], timeout=_WITHIN_S, limits=httpx2.Limits(keepalive_expiry=1), headers=_JSON
        )
        self.schema: dict[str, Any] = self.http.get("/openapi.json").json()

    def rests(self) -> None:
        """It answers, and has all its pages."""
        end = time.monotonic() + 10
        while True:
            (replica,) = self.http.get("/server_info").json()["replicas"]
            if not replica["running"] and not replica["waiting"] and replica["pages_free"] == replica["pages_total"]:
                return
            if time.monotonic() > end:
                raise Broken(f"what is left when nothing runs: {replica}")
            time.sleep(0.002)


_JSON = {"Content-Type": "application/json"}


@cache
def _server() -> _Server:
    return _Server()


def _run(case: Case) -> None:
    path, body = case
    server = _server()
    if path == CONTROL:
        _control(server, body)
    else:
        _check(path, server.http.post(path, content=body))
    server.rests()


def _control(server: _Server, body: bytes) -> None:
    """Of a request that runs, or has just ended."""
    asked = {
        "messages": [{"role": "user", "content": "12 + 7?"}],
        "stream": True,
        "max_tokens": 200,
        "ignore_eos": True,
    }
    with server.http.stream("POST", "/v1/chat/completions", json=asked) as running:
        place = CONTROL.format(id=running.headers["x-s1-request"])
        _check(place, server.http.post(place, content=body))
        running.read()
        _check("/v1/chat/completions", running)


_LAST = ('"message_stop"', '"response.completed"', '"response.incomplete"', '"error"')
"""One of these is in the last event of a stream that does not end in [DONE]."""


def _check(path: str, reply: httpx2.Response) -> None:
    """Raises Broken unless it is what a client can read."""
    shown = f"{path}: {reply.status_code} {reply.text[:500]}"
    if reply.status_code >= 500 or reply.status_code == 429:
        raise Broken(shown)
    if reply.headers["content-type"] == "text/event-stream":
        *frames, rest = reply.text.split("\n\n")
        data = [frame.rpartition("data: ")[2] for frame in frames]
        whole = data[-1] == "[DONE]" or any(mark in data[-1] for mark in _LAST)
        if rest or not whole:
            raise Broken(f"a stream without an end: {shown}")
        for one in data:
            if one != "[DONE]":
                json.loads(one, parse_constant=_refuse)
        return
    value = json.loads(reply.text, parse_constant=_refuse)
    if reply.status_code >= 400:
        error = value["error"]
        names = {"type", "message"} if path.startswith("/v1/messages") else {"type", "message", "param", "code"}
        if {*error} != names or not isinstance(error["type"], str):
            raise Broken(shown)
        check_line(error["message"])


def _refuse(name: str) -> None:
    raise Broken(f"{name} in JSON")


_texts = st.sampled_from(["1 + 1?", "a", "Wait", "é", "\U0001f600", "<|im_start|>", *STRINGS[:8]]) | st.text(max_size=6)
_USUAL: dict[str, st.SearchStrategy[Any]] = {
    "model": st.just(_MODEL),
    "messages": st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system"]), "content": _texts}),
        min_size=1,
        max_size=3,
    ),
    "max_tokens": st.integers(8, 32),
    "max_completion_tokens": st.integers(8, 32),
    "n": st.integers(1, 4),
    "thinking_format": st.sampled_from(["auto", "s1", "none", "qwen3"]),
    "reasoning_effort": st.sampled_from(["none", "low", "xhigh"]),
    "logit_bias": st.dictionaries(st.integers(0, 586).map(str), st.integers(-100, 100), max_size=3),
    "prompt": _texts | st.lists(st.integers(0, 586), max_size=9) | st.lists(_texts, max_size=2),
    "input": _texts,
    "max_output_tokens": st.integers(8, 32),
    "labels": st.just(["1", "2"]),
}
"""What the schema does not say: values that a good request has."""
_TOGETHER = {"steps": ("prompt", "labels"), "return_token_strs": ("prompt",), "encoding_format": ("input",)}
"""Nor does it say what goes with a field that only one body has."""


def _fitting(schema: dict[str, Any], parts: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that `schema` describes, most of them at its bounds."""
    if "$ref" in schema:
        return _fitting(parts[schema["$ref"].rpartition("/")[2]], parts)
    if "anyOf" in schema:
        return st.one_of([_fitting(one, parts) for one in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "const" in schema:
        return st.just(schema["const"])
    match schema.get("type"):
        case "object" if "properties" in schema:
            return _object(schema, parts)
        case "object":
            return st.dictionaries(_texts, _fitting(schema.get("additionalProperties") or {}, parts), max_size=2)
        case "array":
            return st.lists(_fitting(schema.get("items") or {}, parts), min_size=schema.get("minItems", 0), max_size=4)
        case "integer" | "number" as kind:
            least, most = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63)
            near = [value for value in (least, least + 1, 0, 1, 2, 7, 31, most - 1, most) if least <= value <= most]
            return st.sampled_from(near) | (st.floats(least, most) if kind == "number" else st.integers(least, most))
        case "string":
            return _texts
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
    return st.none() | st.booleans() | st.integers() | _texts | st.lists(st.integers(), max_size=2)


def _object(schema: dict[str, Any], parts: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """With what it requires and a few more fields; now and then one is of another type, unknown or missing."""
    fields = schema["properties"]
    required = [
        *schema.get("required", ()),
        *(one for name, more in _TOGETHER.items() if name in fields for one in more),
    ]
    values = {name: _USUAL.get(name, _fitting(field, parts)) for name, field in fields.items()}
    more = [name for name in fields if name not in required]
    chosen = st.lists(st.sampled_from(more), max_size=5, unique=True) if more else st.just([])
    good = chosen.flatmap(lambda names: st.fixed_dictionaries({name: values[name] for name in (*required, *names)}))
    spoiled = st.dictionaries(st.sampled_from([*fields]) | _texts, fragments.map(Raw), min_size=1, max_size=2)
    return good | st.builds(lambda one, other: {**one, **other}, good, spoiled)


def _cases() -> st.SearchStrategy[Case]:
    """Over every route that takes a body."""
    schema = _server().schema
    parts = schema["components"]["schemas"]
    routes = []
    posts = {path: methods["post"]["requestBody"] for path, methods in schema["paths"].items() if "post" in methods}
    for path, body in posts.items():
        bodies = _fitting(body["content"]["application/json"]["schema"], parts).map(_data)
        routes.append(st.tuples(st.just(path), bodies | st.builds(cut, bodies, cuts)))
    return st.one_of(routes)


def _data(value: Any) -> bytes:
    return dump(value).encode("utf-8", "surrogatepass")


TARGETS = (Target("server requests", st.deferred(_cases), _run, quick=80),)
