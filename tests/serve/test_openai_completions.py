"""OpenAI's own client against the real server: completions of texts and token ids."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import openai
import pytest
from openai import OpenAI

from engine import Engine, SamplingParams
from tests.serve.running_server import RunningServer

QUESTIONS = ("Start with 20.\nAdd 26.\nAdd 21.\nWhat is the result?", "Add 3 and 4.")
SEEDED: dict[str, Any] = {"seed": 7, "temperature": 1.5}


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def complete(client: OpenAI, **given: Any) -> Any:
    return client.completions.create(model="s1-nano", **given)


def prompts(engine: Engine) -> list[list[int]]:
    return [engine.prepare(question).prompt.tolist() for question in QUESTIONS]


def test_prompts_of_a_completion(client: OpenAI, engine: Engine) -> None:
    ids = prompts(engine)
    texts = [engine.tokenizer.decode(one) for one in ids]
    params = {**SEEDED, "n": 2, "max_tokens": 40}
    samples = [o.outputs for o in engine.generate(ids, SamplingParams(**params))]
    for prompt, expected in (
        (texts[0], samples[0]),
        (ids[0], samples[0]),
        (texts, samples[0] + samples[1]),
        (ids, samples[0] + samples[1]),
    ):
        reply = complete(client, prompt=prompt, **params)
        assert (reply.object, [choice.index for choice in reply.choices]) == (
            "text_completion",
            [*range(len(expected))],
        )
        assert [choice.text for choice in reply.choices] == [sample.text for sample in expected]
        assert [choice.thinking for choice in reply.choices] == [asdict(sample.thinking) for sample in expected]
        assert reply.usage.completion_tokens == sum(len(sample.token_ids) for sample in expected)
        streamed, ended = [""] * len(expected), [""] * len(expected)
        *chunks, last = complete(client, prompt=prompt, stream=True, stream_options={"include_usage": True}, **params)
        for choice in (choice for chunk in chunks for choice in chunk.choices):
            streamed[choice.index] += choice.text
            ended[choice.index] = choice.finish_reason
        assert (streamed, ended) == (
            [sample.text for sample in expected],
            [sample.finish_reason for sample in expected],
        )
        assert last.choices == [] and last.usage.completion_tokens == reply.usage.completion_tokens
        assert all(chunk.usage is None for chunk in chunks)


def test_echo_alone_of_several(client: OpenAI, engine: Engine) -> None:
    texts = [engine.tokenizer.decode(one) for one in prompts(engine)]
    reply = complete(client, prompt=texts, echo=True, max_tokens=0, n=2)
    assert [(choice.index, choice.text, choice.logprobs) for choice in reply.choices] == [
        (index, texts[index // 2], None) for index in range(4)
    ]
    for refused in ({"max_tokens": 0}, {"max_tokens": 0, "echo": True, "stream": True}):
        with pytest.raises(openai.BadRequestError) as raised:
            complete(client, prompt=texts, **refused)
        assert raised.value.param == "max_tokens"


def test_usage_grows_with_a_stream(client: OpenAI, engine: Engine) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = complete(client, prompt=prompts(engine), max_tokens=30, stream=True, stream_options=options)
    usages = [chunk.usage for chunk in chunks]
    counts = [usage.completion_tokens for usage in usages]
    assert counts == sorted(counts) and counts[0] < counts[len(counts) // 2] <= counts[-1] == counts[-2] == 60
    assert {usage.prompt_tokens for usage in usages} == {sum(map(len, prompts(engine)))}
    thought = [usage.completion_tokens_details.reasoning_tokens for usage in usages]
    assert thought == sorted(thought) and 0 < thought[-2] == thought[-1] < 60
