"""Anthropic's own client against the real server: messages, whole and streamed, beside the engine itself."""

from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic

from engine import Engine, SamplingParams
from engine.request import RequestOutput
from tests.serve.running_server import RunningServer

MODEL = "s1-nano"
MESSAGES: Any = [{"role": "user", "content": "Start with 20.\nAdd 26.\nAdd 21.\nWhat is the result?"}]
SYSTEM = {"role": "system", "content": "You are s1-nano."}
BEGUN = {"role": "assistant", "content": "<|im_start|>think\nStart with 20.\nAdd 26. 20+26=46\nAdd 21."}


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[Anthropic]:
    with Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


def create(client: Anthropic, **given: Any) -> Any:
    return client.messages.create(**{"model": MODEL, "max_tokens": 300, "messages": MESSAGES, **given})


def offline(engine: Engine, messages: Any = MESSAGES, **params: Any) -> RequestOutput:
    """The same in this process."""
    return engine.generate([{"messages": messages}], SamplingParams(**{"max_tokens": 300, **params}))[0]


def blocks(content: Any) -> list[tuple[str, str]]:
    """Kind and text of each block."""
    return [(block.type, block.thinking if block.type == "thinking" else block.text) for block in content]


CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"thinking": {"type": "enabled", "budget_tokens": 5}}, {"thinking_token_budget": 5}),
    ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"thinking_token_budget": 1024}),
    ({"thinking": {"type": "adaptive"}}, {}),
    ({"max_tokens": 30}, {"max_tokens": 30}),
    ({"stop_sequences": ["7", "x"]}, {"stop": ("7", "x")}),
    ({"extra_body": {"temperature": 5, "top_k": 1}}, {}),
    ({"extra_body": {"temperature": 5, "top_p": 1e-9}}, {}),
    ({"system": "Be brief."}, {"messages": [{"role": "system", "content": "Be brief."}, *MESSAGES]}),
    (
        {"system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]},
        {"messages": [{"role": "system", "content": "Be brief."}, *MESSAGES]},
    ),
    ({"messages": [*MESSAGES, BEGUN]}, {"messages": [*MESSAGES, BEGUN]}),
]
"""What the client is told, and what that is in the engine."""


@pytest.mark.parametrize(("given", "params"), CASES, ids=str)
def test_a_message_is_what_the_engine_says(
    client: Anthropic, engine: Engine, given: dict[str, Any], params: dict[str, Any]
) -> None:
    output = offline(engine, **params)
    sample = output.outputs[0]
    hit = "7" if "stop" in params else None
    reason = "stop_sequence" if hit else {"stop": "end_turn", "length": "max_tokens"}[sample.finish_reason]
    reply = create(client, **given)
    with client.messages.stream(**{"model": MODEL, "max_tokens": 300, "messages": MESSAGES, **given}) as stream:
        kinds = [event.type for event in stream]
        streamed: Any = stream.get_final_message()
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 2
    for message in (reply, streamed):
        assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
        assert blocks(message.content) == [("thinking", sample.reasoning), ("text", sample.answer)]
        assert (message.stop_reason, message.stop_sequence) == (reason, hit)
        prompt = message.usage.input_tokens + message.usage.cache_read_input_tokens
        assert prompt == output.usage.prompt_tokens
        assert message.usage.output_tokens == output.usage.completion_tokens
        assert message.usage.output_tokens_details.thinking_tokens == output.usage.reasoning_tokens
    assert streamed.usage.cache_read_input_tokens > 0


def test_thinking_is_hidden_as_asked(client: Anthropic, engine: Engine) -> None:
    plain, without = (offline(engine, thinking_token_budget=budget).outputs[0] for budget in (None, 0))
    for given, expected in (
        ({"thinking": {"type": "disabled"}}, [("text", without.answer)]),
        ({"output_config": {"effort": "none"}}, [("text", without.answer)]),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, [("thinking", ""), ("text", plain.answer)]),
    ):
        assert blocks(create(client, **given).content) == expected
        with client.messages.stream(model=MODEL, max_tokens=300, messages=MESSAGES, **given) as stream:  # type: ignore[arg-type]
            assert blocks(stream.get_final_message().content) == expected


def test_why_thinking_ended_stands_in_the_last_delta(client: Anthropic) -> None:
    thinking = {"type": "enabled", "budget_tokens": 5}
    expected = {"tokens": 5, "forced_tokens": 7, "extensions": 0, "stop_reason": "budget"}
    assert create(client, thinking=thinking).thinking == expected
    deltas = [event.delta for event in create(client, thinking=thinking, stream=True) if event.type == "message_delta"]
    assert [delta.thinking for delta in deltas] == [expected]


def test_a_reply_goes_back_as_it_came(client: Anthropic, engine: Engine) -> None:
    reply = create(client)
    again = [*MESSAGES, {"role": "assistant", "content": reply.content}, {"role": "user", "content": "Add 3 and 4."}]
    sample = offline(engine, [*MESSAGES, {"role": "assistant", "content": reply.content[-1].text}, again[-1]]).outputs[
        0
    ]
    assert blocks(create(client, messages=again).content) == [("thinking", sample.reasoning), ("text", sample.answer)]


def test_tokens_are_counted(client: Anthropic, engine: Engine) -> None:
    for given in ({"messages": MESSAGES}, {"messages": [*MESSAGES, BEGUN]}, {"messages": MESSAGES, "system": "Short."}):
        counted = client.messages.count_tokens(model=MODEL, **given)  # type: ignore[arg-type]
        usage = create(client, **given).usage
        assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens


def test_temperature_draws(client: Anthropic, engine: Engine) -> None:
    greedy = offline(engine).outputs[0]
    assert blocks(create(client, extra_body={"temperature": 5}).content)[0] != ("thinking", greedy.reasoning)


@pytest.mark.parametrize(
    ("given", "kind", "named"),
    [
        ({"model": "claude-fable"}, anthropic.NotFoundError, "claude-fable"),
        ({"messages": []}, anthropic.BadRequestError, "messages"),
        ({"messages": [{"role": "user"}]}, anthropic.BadRequestError, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, anthropic.BadRequestError, "image"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens"),
        ({"max_tokens": 3}, anthropic.BadRequestError, "max_tokens"),
        ({"tools": [{"name": "x", "input_schema": {}}]}, anthropic.BadRequestError, "tools"),
        ({"output_config": {"effort": "huge"}}, anthropic.BadRequestError, "effort"),
        ({"output_config": {"format": {"type": "json_schema"}}}, anthropic.BadRequestError, "format"),
        ({"thinking": {"type": "disabled", "budget_tokens": 5}}, anthropic.BadRequestError, "thinking.budget_tokens"),
        ({"thinking": {"type": "maybe"}}, anthropic.BadRequestError, "thinking.type"),
        ({"stop_sequences": [""]}, anthropic.BadRequestError, "stop"),
        ({"extra_body": {"temperature": -1}}, anthropic.BadRequestError, "temperature"),
        ({"extra_body": {"foo": 1}}, anthropic.BadRequestError, "foo"),
    ],
    ids=str,
)
def test_errors_have_their_class(
    client: Anthropic, given: dict[str, Any], kind: type[anthropic.APIStatusError], named: str
) -> None:
    with pytest.raises(kind) as raised:
        create(client, extra_headers={"X-Request-Id": "mine-2"}, **given)
    body: Any = raised.value.body
    expected = "not_found_error" if kind is anthropic.NotFoundError else "invalid_request_error"
    assert (body["type"], body["error"]["type"], body["request_id"]) == ("error", expected, "mine-2")
    assert named in body["error"]["message"]


def test_a_request_has_an_identity(client: Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        create(client, model="claude-fable", extra_headers={"X-Request-Id": "mine-3"})
    assert raised.value.request_id == "mine-3"
    assert create(client, extra_headers={"X-Request-Id": "mine-4"})._request_id == "mine-4"


def test_our_parameters_stand_beside_theirs(client: Anthropic, engine: Engine) -> None:
    given = {"thinking_extensions": 1, "thinking_token_budget": 96, "seed": 3, "min_thinking_tokens": 20}
    message = create(client, max_tokens=300, extra_body=given)
    output = engine.generate([{"messages": MESSAGES}], SamplingParams(max_tokens=300, **given))[0].outputs[0]
    assert message.content[-1].text == output.answer and message.content[0].thinking == output.reasoning
    assert client.models.retrieve("s1-nano").id == "s1-nano"
    for several in ({"n": 2}, {"stop": ["a"], "stop_sequences": ["b"]}):
        with pytest.raises(anthropic.BadRequestError, match=next(iter(several))):
            create(client, extra_body=several)
