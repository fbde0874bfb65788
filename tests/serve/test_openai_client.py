"""OpenAI's own client against the real server: chats, whole and streamed, beside the engine itself."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import openai
import pytest
from openai import OpenAI

from engine import Engine, SamplingParams
from engine.request import Completion
from tests.serve.running_server import RunningServer

MODEL = "s1-nano"
QUESTION = "Start with 20.\nAdd 26.\nAdd 21.\nWhat is the result?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
CONTINUOUS: Any = {"include_usage": True, "continuous_usage_stats": True}
STANDARD = {"temperature", "top_p", "n", "seed", "stop", "max_tokens", "logit_bias"}
STANDARD |= {"presence_penalty", "frequency_penalty"}
"""What the client has arguments for; the rest travels in its extra_body."""
SEEDED: dict[str, Any] = {"seed": 7, "temperature": 1.5}
HOT: dict[str, Any] = {"seed": 7, "temperature": 5}
TWO, SIX, EOS = 17, 21, 567

CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, SEEDED),
    (HOT, {"seed": 8}),
    (HOT, {"top_k": 3}),
    (HOT, {"top_p": 0.9}),
    (HOT, {"min_p": 0.1}),
    (SEEDED, {"n": 3}),
    ({}, {"stop": ["7"]}),
    ({}, {"stop": "wer: 6"}),
    ({}, {"stop_token_ids": [SIX]}),
    ({}, {"max_tokens": 40}),
    ({}, {"min_tokens": 70}),
    ({"max_tokens": 80}, {"ignore_eos": True}),
    ({"max_tokens": 200}, {"repetition_penalty": 2.0}),
    ({"max_tokens": 200}, {"presence_penalty": 20.0}),
    ({"max_tokens": 200}, {"frequency_penalty": 20.0}),
    ({"max_tokens": 60}, {"logit_bias": {str(TWO): 30}}),
    ({"max_tokens": 60}, {"allowed_token_ids": [TWO, SIX, EOS]}),
    ({}, {"banned_token_ids": [TWO]}),
    ({}, {"pause": ["."]}),
    ({}, {"pause_tokens": 9}),
    ({}, {"thinking_token_budget": 0}),
    ({}, {"thinking_token_budget": 5}),
    ({**SEEDED, "thinking_extensions": 2}, {"thinking_token_budget": 64}),
    ({}, {"thinking_extensions": 2}),
    (SEEDED, {"thinking_extensions": 2}),
    ({"thinking_extensions": 1}, {"thinking_extension_str": "so 66\n"}),
    ({}, {"min_thinking_tokens": 90}),
    ({"thinking_token_budget": 9}, {"thinking_end_str": "\n<|im_start|>answer\nAnswer: 6"}),
    ({"thinking_token_budget": 9}, {"thinking_grace_tokens": 30}),
    ({"thinking_token_budget": 9}, {"thinking_budget_action": "truncate"}),
    ({"logit_bias": {str(EOS): 100}}, {"thinking_eos_policy": "stop"}),
    ({}, {"min_answer_tokens": 12}),
    ({"max_tokens": 45}, {"answer_reserve_tokens": 20}),
    ({"max_tokens": 60, "logit_bias": {str(TWO): 100}}, {"loop_ngram": 1, "loop_count": 4}),
    ({}, {"thinking_format": "none"}),
    ({}, {"thinking_format": {"opener": "<|im_start|>", "end": "so", "budget_end": "so ", "triggers": ["so"]}}),
]
"""What is asked anyway, and the fields that a case is about."""


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def ours(params: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the client."""
    extra = {name: value for name, value in params.items() if name not in STANDARD}
    return {name: value for name, value in params.items() if name in STANDARD} | {"extra_body": extra}


def chat(client: OpenAI, params: dict[str, Any], **more: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=MESSAGES, **ours(params), **more)


def offline(engine: Engine, params: dict[str, Any]) -> Any:
    """The same in this process."""
    (output,) = engine.generate([{"messages": MESSAGES}], SamplingParams.from_dict(params))
    return output


def told(sample: Completion) -> dict[str, Any]:
    """What a choice has to say of a sample."""
    return {
        "content": sample.answer,
        "reasoning": sample.reasoning,
        "finish_reason": sample.finish_reason,
        "thinking": asdict(sample.thinking),
        "forced": sample.forced,
    }


def whole(choice: Any) -> dict[str, Any]:
    message = choice.message
    assert message.role == "assistant"
    reasoning = getattr(message, "reasoning", "")
    assert reasoning == getattr(message, "reasoning_content", "")
    rest = {"finish_reason": choice.finish_reason, "thinking": choice.thinking, "forced": choice.forced}
    return {"content": message.content, "reasoning": reasoning, **rest}


def joined(chunks: Iterable[Any], n: int) -> list[dict[str, Any]]:
    """What the chunks of a stream come to, in the order that they have to have."""
    found: list[dict[str, Any]] = [{} for _ in range(n)]
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        one, delta = found[choice.index], choice.delta
        said, thought = delta.content, getattr(delta, "reasoning", None)
        assert thought == getattr(delta, "reasoning_content", None) and not (said and thought)
        assert "finish_reason" not in one
        if not one:
            assert (delta.role, said) == ("assistant", "")
            one |= {"content": "", "reasoning": ""}
        one["content"] += said or ""
        one["reasoning"] += thought or ""
        if choice.finish_reason is not None:
            one |= {"finish_reason": choice.finish_reason, "thinking": choice.thinking, "forced": choice.forced}
    return found


def test_what_is_said_is_what_the_engine_says(client: OpenAI, engine: Engine) -> None:
    output, reply = offline(engine, {}), chat(client, {})
    assert [whole(choice) for choice in reply.choices] == [told(output.outputs[0])]
    assert (reply.object, reply.model, reply.choices[0].index) == ("chat.completion", MODEL, 0)
    assert output.outputs[0].answer == "Answer: 67" and reply.timing["total_s"] > reply.timing["ttft_s"] > 0
    assert joined(chat(client, {}, stream=True), 1) == [told(output.outputs[0])]


@pytest.mark.parametrize(("base", "fields"), CASES, ids=str)
def test_every_field_does_what_it_does_in_the_engine(
    client: OpenAI, engine: Engine, base: dict[str, Any], fields: dict[str, Any]
) -> None:
    params = base | fields
    output = offline(engine, params)
    expected = [told(sample) for sample in output.outputs]
    without = [told(sample) for sample in offline(engine, base).outputs]
    assert expected != without, "the fields do nothing here, so nothing is shown"
    reply = chat(client, params)
    assert [whole(choice) for choice in reply.choices] == expected
    *chunks, last = chat(client, params, stream=True, stream_options={"include_usage": True})
    assert joined(chunks, len(expected)) == expected
    assert last.choices == [] and all(chunk.usage is None for chunk in chunks)
    assert len({chunk.id for chunk in (*chunks, last)}) == 1 and last.id != reply.id
    for usage in (reply.usage, last.usage):
        assert usage.prompt_tokens == output.usage.prompt_tokens
        assert usage.completion_tokens == output.usage.completion_tokens
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
        assert usage.completion_tokens_details.reasoning_tokens == output.usage.reasoning_tokens
        assert usage.completion_tokens_details.forced_tokens == output.usage.forced_tokens


@pytest.mark.parametrize(
    "budget",
    [
        {"thinking_token_budget": 5},
        {"max_thinking_tokens": 5},
        {"thinking_budget": 5},
        {"thinking_budget_tokens": 5},
        {"reasoning_budget_tokens": 5},
        {"thinking": {"type": "enabled", "budget_tokens": 5}},
        {"reasoning": {"max_tokens": 5}},
        {"thinking_budget": 5, "max_thinking_tokens": 5},
    ],
    ids=str,
)
def test_a_budget_has_many_names(client: OpenAI, budget: dict[str, Any]) -> None:
    thinking = chat(client, budget).choices[0].thinking
    assert (thinking["tokens"], thinking["stop_reason"]) == (5, "budget")


@pytest.mark.parametrize(
    "off",
    [
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"thinking": {"type": "disabled"}},
        {"reasoning_effort": "none"},
        {"reasoning": {"effort": "none"}},
    ],
    ids=str,
)
def test_thinking_is_turned_off_in_many_ways(client: OpenAI, off: dict[str, Any]) -> None:
    choice = chat(client, off).choices[0]
    assert choice.thinking["tokens"] == 0 and not hasattr(choice.message, "reasoning") and choice.message.content


@pytest.mark.parametrize(
    "how",
    [
        {"reasoning_effort": "high"},
        {"thinking_token_budget": -1, "seed": -1, "stop": None},
        {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "safety_identifier": "me"},
        {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "best_of": 1},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}]},
    ],
    ids=str,
)
def test_what_says_nothing_changes_nothing(client: OpenAI, how: dict[str, Any]) -> None:
    assert whole(chat(client, how).choices[0]) == whole(chat(client, {}).choices[0])


def test_a_last_message_is_continued_where_that_is_asked(client: OpenAI, engine: Engine) -> None:
    messages = [*MESSAGES, {"role": "assistant", "content": "<|im_start|>think\nStart with 20.\nAdd 26. 20+26=45\n"}]
    replies = []
    for goes_on in (False, True):
        params = SamplingParams(continue_final_message=goes_on)
        (output,) = engine.generate([{"messages": messages}], params)
        given = {"messages": messages} if not goes_on else {"messages": messages, "continue_final_message": True}
        reply = chat(client, given)
        assert whole(reply.choices[0]) == told(output.outputs[0])
        *_, streamed, last = chat(client, given, stream=True, stream_options=CONTINUOUS)
        thought = {chunk.usage.completion_tokens_details.reasoning_tokens for chunk in (streamed, last)}
        assert thought == {output.usage.reasoning_tokens}
        replies.append(reply.choices[0].message.content)
    assert replies[0] != replies[1] == "Answer: 66"


def test_the_clients_own_accumulator_is_content(client: OpenAI, engine: Engine) -> None:
    sample = offline(engine, {}).outputs[0]
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, logprobs=True) as stream:
        stream.until_done()
        choice = stream.get_final_completion().choices[0]
    assert (choice.message.content, choice.finish_reason) == (sample.answer, "stop")
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert len(choice.logprobs.content) == len(sample.token_ids)


def test_reasoning_is_shown_as_asked(client: OpenAI, engine: Engine) -> None:
    sample = offline(engine, {}).outputs[0]
    for params, content in (
        ({"include_reasoning": False}, sample.answer),
        ({"separate_reasoning": False}, sample.text),
    ):
        expected = {**told(sample), "content": content, "reasoning": ""}
        assert whole(chat(client, params).choices[0]) == expected
        assert joined(chat(client, params, stream=True), 1) == [expected]


def test_token_ids_come_where_asked_for(client: OpenAI, engine: Engine) -> None:
    params = {"return_token_ids": True, "thinking_token_budget": 20}
    expected = offline(engine, {"thinking_token_budget": 20}).outputs[0].token_ids
    assert chat(client, params).choices[0].token_ids == expected
    choices = [chunk.choices[0] for chunk in chat(client, params, stream=True)]
    assert [token for choice in choices for token in getattr(choice, "token_ids", ())] == expected
    assert not hasattr(chat(client, {}).choices[0], "token_ids")


def test_events_say_what_is_what_and_who_wrote_it(client: OpenAI, engine: Engine) -> None:
    params = {"thinking_token_budget": 60, "thinking_extensions": 1}
    sample = offline(engine, params).outputs[0]
    choices = [chunk.choices[0] for chunk in chat(client, {**params, "thinking_events": True}, stream=True)]
    events = [choice.event for choice in choices if hasattr(choice, "event")]
    assert "".join(event["text"] for event in events) == sample.text
    reasoning = "".join(event["text"] for event in events if event["kind"] == "reasoning")
    assert reasoning.strip() == sample.reasoning and "Wait" in reasoning
    assert {event["kind"] for event in events if event["text"]} == {"reasoning", "delimiter", "answer"}
    forced, at = list[int](), 0
    for event in events:
        if event["forced"]:
            forced += range(at, at + event["tokens"])
        at += event["tokens"]
    assert (forced, sample.token_ids[at:]) == (sample.forced, [EOS])  # which has no text
    counts = [event["thinking_tokens"] for event in events]
    assert counts == sorted(counts) and counts[-1] == sample.thinking.tokens == 60


def test_usage_grows_with_a_stream(client: OpenAI) -> None:
    usages = [chunk.usage for chunk in chat(client, {"n": 2, **SEEDED}, stream=True, stream_options=CONTINUOUS)]
    counts = [usage.completion_tokens for usage in usages]
    assert counts == sorted(counts) and counts[0] == 0 < counts[len(counts) // 2] <= counts[-1] == counts[-2]
    assert {usage.prompt_tokens for usage in usages} == {usages[-1].prompt_tokens}
    thought = [usage.completion_tokens_details.reasoning_tokens for usage in usages]
    assert thought == sorted(thought) and thought[-2] == thought[-1]
    assert all(chunk.usage is None for chunk in chat(client, {"max_tokens": 20}, stream=True))


def test_what_was_computed_before_is_not_computed_again(client: OpenAI) -> None:
    def ask(text: str) -> Any:
        return client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], max_tokens=9)

    text = "Nobody asked this before, so it is new. " * 4
    first, again = ask(text).usage, ask(text).usage
    assert first.prompt_tokens_details.cached_tokens < 40
    assert again.prompt_tokens_details.cached_tokens == again.prompt_tokens - 1 > 64


def test_models(client: OpenAI) -> None:
    (model,) = client.models.list().data
    assert (model.id, model.owned_by, model.max_model_len) == (MODEL, "s1-engine", 2048)  # type: ignore[attr-defined]
    with pytest.raises(openai.NotFoundError) as raised:
        client.chat.completions.create(model="gpt-5", messages=MESSAGES)
    assert (raised.value.param, raised.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=MODEL, input="no such route")


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 65}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 3}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"seed": -2}, "seed"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 65}, "logprobs"),
        ({"logit_bias": {"99999": 1}}, "logit_bias[0]"),
        ({"stop_token_ids": [99999]}, "stop_token_ids[0]"),
        ({"foo": 1}, "foo"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"best_of": 2}, "best_of"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
        ({"thinking_token_budget": -2}, "thinking_token_budget"),
        ({"thinking_token_budget": 5, "min_thinking_tokens": 6}, "min_thinking_tokens"),
        ({"thinking_token_budget": 5, "thinking_budget": 6}, "thinking_token_budget"),
        ({"thinking_budget": 5, "chat_template_kwargs": {"enable_thinking": False}}, "thinking_budget"),
        ({"chat_template_kwargs": {"foo": 1}}, "chat_template_kwargs"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"thinking_end_str": "no end"}, "thinking_end_str"),
        ({"loop_ngram": 3}, "loop_ngram"),
    ],
    ids=str,
)
def test_bad_requests_name_their_field(client: OpenAI, params: dict[str, Any], field: str) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=MODEL, messages=MESSAGES, extra_body=params)
    assert raised.value.param == field and field.partition("[")[0] in raised.value.message
    assert (raised.value.type, raised.value.status_code) == ("invalid_request_error", 400)
