"""Requests that are steered while they stream, by OpenAI's client; and by nobody but whose they are."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI, Stream
from openai.types.chat import ChatCompletionChunk

from tests.serve.running_server import RunningServer

MESSAGES: Any = [{"role": "user", "content": "Start with 20.\nAdd 26.\nAdd 21.\nWhat is the result?"}]
LONG = {"min_thinking_tokens": 1800}
"""Seconds, in which a control arrives."""


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


class Asked:
    """A chat that streams and has begun to think."""

    def __init__(self, client: OpenAI, **params: Any) -> None:
        self._client = client
        self._stream: Stream[ChatCompletionChunk] = client.chat.completions.create(
            model="s1-nano", messages=MESSAGES, stream=True, max_tokens=1950, extra_body=params
        )
        self.reasoning = self.content = ""
        self.id = self._read().id
        while not self.reasoning:
            self._read()

    def control(self, **body: Any) -> Any:
        return self._client.post(f"/requests/{self.id}/control", cast_to=object, body=body)

    def delete(self) -> Any:
        return self._client.delete(f"/requests/{self.id}", cast_to=object)

    def end(self) -> Any:
        """The choice that ends the stream."""
        while (chunk := self._read()).choices[0].finish_reason is None:
            pass
        assert next(self._stream, None) is None
        return chunk.choices[0]

    def _read(self) -> ChatCompletionChunk:
        chunk = next(self._stream)
        delta = chunk.choices[0].delta
        self.reasoning += getattr(delta, "reasoning", "")
        self.content += delta.content or ""
        return chunk


def test_thinking_is_ended(client: OpenAI) -> None:
    asked = Asked(client, **LONG)
    assert asked.control(action="end_thinking") == {"id": asked.id, "action": "end_thinking", "ok": True}
    choice = asked.end()
    assert (choice.finish_reason, choice.thinking["stop_reason"]) == ("stop", "client")
    thought, forced = choice.thinking["tokens"], choice.thinking["forced_tokens"]
    assert thought < 1800 and choice.forced == [*range(thought, thought + forced)]
    assert forced in (6, 7)  # behind a line of its own, or not
    assert asked.content.startswith("Final Answer:") and len(asked.content) > len("Final Answer:")


def test_the_budget_is_moved_down(client: OpenAI) -> None:
    asked = Asked(client, **LONG)
    asked.control(action="budget", budget=600)
    choice = asked.end()
    # natural where the control came late and the model wanted to end just then: at the budget that wins
    assert choice.finish_reason == "stop" and choice.thinking["stop_reason"] in ("budget", "natural")
    assert 600 <= choice.thinking["tokens"] < 1800 and asked.content


def test_the_budget_is_lifted(client: OpenAI) -> None:
    asked = Asked(client, thinking_token_budget=1200, min_thinking_tokens=1200)
    asked.control(action="budget", budget=None)
    choice = asked.end()
    assert choice.thinking["tokens"] > 1200 and choice.thinking["stop_reason"] != "budget"


def test_thinking_goes_on(client: OpenAI) -> None:
    asked = Asked(client, min_thinking_tokens=900)
    asked.control(action="extend")
    asked.control(action="extend")
    choice = asked.end()
    assert choice.thinking["extensions"] == 2 and asked.reasoning.count("Wait") >= 2


def test_a_request_is_aborted(client: OpenAI) -> None:
    asked = Asked(client, **LONG)
    assert asked.delete() == {"id": asked.id, "aborted": True}
    choice = asked.end()
    assert (choice.finish_reason, asked.content) == ("abort", "") and choice.thinking["tokens"] < 1800


def test_what_is_over_cannot_be_steered(client: OpenAI) -> None:
    asked = Asked(client)
    asked.end()
    for act in (lambda: asked.control(action="end_thinking"), asked.delete):
        with pytest.raises(openai.NotFoundError) as raised:
            act()
        assert raised.value.type == "not_found_error"
    with pytest.raises(openai.NotFoundError):
        client.delete("/requests/chatcmpl-0", cast_to=object)


def test_a_request_is_named_before_its_first_chunk(client: OpenAI) -> None:
    chats = client.chat.completions.with_raw_response
    raw = chats.create(model="s1-nano", messages=MESSAGES, stream=True, extra_headers={"X-Request-Id": "mine-1"})
    assert raw.headers["x-request-id"] == "mine-1"
    assert {chunk.id for chunk in raw.parse()} == {raw.headers["x-s1-request"]}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"action": "fly"}, "action"),
        ({}, None),
        ({"action": "budget"}, "budget"),
        ({"action": "budget", "budget": -1}, "budget"),
        ({"action": "budget", "budget": "all"}, "budget"),
        ({"action": "extend", "times": 2}, "times"),
    ],
    ids=str,
)
def test_controls_that_are_none(client: OpenAI, body: dict[str, Any], field: str | None) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.post("/requests/chatcmpl-0/control", cast_to=object, body=body)
    assert (field or "action") in raised.value.message


def test_a_format_that_cannot_be_extended_says_so(client: OpenAI) -> None:
    end = "<|im_start|>answer"
    two_tokens = {"opener": "<|im_start|>think", "end": end, "budget_end": end, "triggers": [end]}
    asked = Asked(client, thinking_format=two_tokens, **LONG)
    with pytest.raises(openai.BadRequestError, match="extend needs a thinking format"):
        asked.control(action="extend")
    asked.delete()
    assert asked.end().finish_reason == "abort"
