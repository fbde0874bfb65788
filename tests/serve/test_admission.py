"""Who may come in: keys, a full queue, a server that ends; by the classes of errors of both clients."""

import signal
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.serve.running_server import RunningServer

MESSAGES: Any = [{"role": "user", "content": "Start with 20.\nAdd 26.\nAdd 21.\nWhat is the result?"}]
LONG = {"n": 8, "thinking_token_budget": -1, "min_thinking_tokens": 1900}
"""Seconds, in which others come."""
KEYS = ("first-key-1", "second-key-2")


@pytest.fixture(scope="module")
def locked() -> Iterator[RunningServer]:
    """Two keys, room for one request, and defaults of its own."""
    flags = ("--max-waiting", "1", "--thinking-token-budget", "9", "--served-model-name", "nano", "other")
    efforts = ("--reasoning-effort-budgets", "low", "5", "high", "-1")
    with RunningServer(*flags, *efforts, environment={"S1_API_KEYS": ",".join(KEYS)}) as running:
        yield running


def clients(server: RunningServer, key: str) -> tuple[OpenAI, Anthropic]:
    ours: dict[str, Any] = {"api_key": key, "max_retries": 0}
    return OpenAI(base_url=f"{server.url}/v1", **ours), Anthropic(base_url=server.url, **ours)


def chat(client: OpenAI, model: str = "nano", **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=MESSAGES, **more)


def ends(stream: Any) -> list[str]:
    """Why the choices ended."""
    reasons = (chunk.choices[0].finish_reason for chunk in stream)
    return [reason for reason in reasons if reason is not None]


def test_nobody_comes_in_without_a_key(locked: RunningServer) -> None:
    for key in ("third-key-3", KEYS[0][:-1], KEYS[0] + KEYS[1]):
        first, second = clients(locked, key)
        with pytest.raises(openai.AuthenticationError) as raised:
            chat(first)
        assert (raised.value.type, raised.value.code) == ("authentication_error", "invalid_api_key")
        assert raised.value.response.headers["www-authenticate"] == "Bearer"
        with pytest.raises(anthropic.AuthenticationError) as other:
            second.messages.create(model="nano", max_tokens=100, messages=MESSAGES)
        assert other.value.body["error"]["type"] == "authentication_error"  # type: ignore[index, call-overload]
        assert key not in "\n".join(locked.said)
    for path, status in (("/health", 200), ("/health/ready", 200), ("/v1/models", 401), ("/metrics", 401)):
        assert locked.get(path).status_code == status
    assert locked.get("/openapi.json").status_code == locked.get("/server_info").status_code == 401


def test_who_has_a_key_comes_in(locked: RunningServer) -> None:
    for key in KEYS:
        first, second = clients(locked, key)
        assert chat(first).choices[0].message.content
        assert second.messages.create(model="nano", max_tokens=100, messages=MESSAGES).content


def test_defaults_are_the_servers(locked: RunningServer) -> None:
    client, _ = clients(locked, KEYS[0])
    for params, tokens, reason in (
        ({}, 9, "budget"),
        ({"thinking_token_budget": None}, 9, "budget"),
        ({"thinking_token_budget": -1}, 42, "natural"),
        ({"reasoning_effort": "low"}, 5, "budget"),
        ({"reasoning_effort": "high"}, 42, "natural"),
        ({"reasoning_effort": "high", "thinking_budget": 7}, 7, "budget"),
    ):
        thinking = chat(client, extra_body=params).choices[0].thinking
        assert (thinking["tokens"], thinking["stop_reason"]) == (tokens, reason)
    assert [model.id for model in client.models.list().data] == ["nano", "other"]
    assert [chat(client, model).model for model in ("nano", "other")] == ["nano", "other"]
    with pytest.raises(openai.NotFoundError):
        chat(client, "s1-nano")


def test_a_full_queue_and_controls_of_others(locked: RunningServer) -> None:
    (mine, same), (other, _) = clients(locked, KEYS[0]), clients(locked, KEYS[1])
    stream = chat(mine, stream=True, extra_body=LONG)
    identity = next(stream).id
    with pytest.raises(openai.RateLimitError) as full:
        chat(other)
    assert (full.value.type, full.value.code) == ("rate_limit_error", "queue_full")
    assert full.value.response.headers["retry-after"] == "1"
    with pytest.raises(anthropic.RateLimitError):
        same.messages.create(model="nano", max_tokens=100, messages=MESSAGES)
    for act in (
        lambda: other.post(f"/requests/{identity}/control", cast_to=object, body={"action": "end_thinking"}),
        lambda: other.delete(f"/requests/{identity}", cast_to=object),
    ):
        with pytest.raises(openai.NotFoundError):
            act()
    mine.delete(f"/requests/{identity}", cast_to=object)
    assert ends(stream) == ["abort"] * 8
    assert chat(other).choices[0].finish_reason == "stop"


def test_a_server_that_ends_takes_nothing_more(locked: RunningServer) -> None:
    """The last of this file: it ends the server."""
    first, second = clients(locked, KEYS[0])
    running = chat(first, stream=True, extra_body=LONG)
    identity = next(running).id
    locked.process.send_signal(signal.SIGTERM)
    locked.wait_for("requests have")
    with pytest.raises(openai.InternalServerError) as raised:
        chat(first)
    assert (raised.value.status_code, raised.value.type) == (503, "overloaded_error")
    assert raised.value.response.headers["retry-after"] == "1"
    with pytest.raises(anthropic.APIStatusError) as other:
        second.messages.create(model="nano", max_tokens=100, messages=MESSAGES)
    assert other.value.status_code == 503 and other.value.body["error"]["type"] == "overloaded_error"  # type: ignore[index, call-overload]
    first.delete(f"/requests/{identity}", cast_to=object)
    assert ends(running) == ["abort"] * 8
    assert locked.process.wait(60) == 0


def test_pages_of_an_allowed_origin_may_use_it() -> None:
    ours, key = {"Origin": "http://pages.example:8080"}, {"Authorization": "Bearer key-of-the-page"}
    flags = ("--allowed-origins", "http://pages.example:8080")
    with RunningServer(*flags, environment={"S1_API_KEYS": "key-of-the-page"}) as server:
        asks = httpx2.request("OPTIONS", f"{server.url}/v1/models", headers=ours)
        assert asks.status_code == 204 and "authorization" in asks.headers["access-control-allow-headers"]
        for headers, wanted in ((ours | key, 200), (ours, 401)):
            reply = httpx2.get(f"{server.url}/v1/models", headers=headers)
            assert reply.status_code == wanted
            assert reply.headers["access-control-allow-origin"] == ours["Origin"] and reply.headers["vary"] == "Origin"
        for headers in ({"Origin": "http://pages.example"}, {"Origin": "http://["}):
            assert httpx2.get(f"{server.url}/v1/models", headers=headers | key).status_code in (400, 403)
