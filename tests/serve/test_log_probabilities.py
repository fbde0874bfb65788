"""Log-probabilities and scores over HTTP, beside those of the engine itself: all in float32, since rounding to bfloat16
depends on what else runs."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from openai import OpenAI

from engine import Engine, SamplingParams
from engine.model.checkpoint import resolve
from engine.model.config import ModelConfig
from engine.request import Logprob
from tests.rounding import decoder_roundings, likely
from tests.serve.running_server import RunningServer

MESSAGES: Any = [{"role": "user", "content": "Start with 20.\nAdd 26.\nAdd 21.\nWhat is the result?"}]
LINES = ["Start with 20.\n", "Add 26. 20+26=46\n", "Add 21. 46+21=67\n", "so 68\n"]
LOGITS = 64
"""How far apart a token's are taken to lie: the log-probabilities here go down to -25."""
OFF = LOGITS * likely(decoder_roundings(ModelConfig.load(resolve("models/s1-nano")), 128))
"""Between two ways to compute the same."""


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with RunningServer("--dtype", "float32") as running:
        yield running


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine("models/s1-nano", dtype="float32") as engine:
        yield engine


@pytest.fixture(scope="module")
def client(server: RunningServer) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def check_logprobs(entries: Sequence[Any], expected: Sequence[Logprob], engine: Engine) -> None:
    assert [bytes(one.bytes) for one in entries] == [engine.tokenizer.token_bytes(one.token_id) for one in expected]
    assert [one.logprob for one in entries] == pytest.approx([one.logprob for one in expected], abs=OFF)
    assert [getattr(one, "forced", False) for one in entries] == [one.forced for one in expected]
    for one, other in zip(entries, expected, strict=True):
        assert len(one.top_logprobs) == len(other.top) == 3
        assert [top.logprob for top in one.top_logprobs] == pytest.approx([value for _, value in other.top], abs=OFF)
        assert bytes(one.top_logprobs[0].bytes) == engine.tokenizer.token_bytes(other.top[0][0])


def test_log_probabilities_of_a_chat(client: OpenAI, engine: Engine) -> None:
    def ask(**more: Any) -> Any:
        given = {"logprobs": True, "top_logprobs": 3, "extra_body": {"thinking_token_budget": 20}}
        return client.chat.completions.create(model="s1-nano", messages=MESSAGES, **given, **more)

    params = SamplingParams(thinking_token_budget=20, logprobs=3)
    expected = engine.generate([{"messages": MESSAGES}], params)[0].outputs[0].logprobs
    assert expected is not None
    check_logprobs(ask().choices[0].logprobs.content, expected, engine)
    parts = [chunk.choices[0].logprobs for chunk in ask(stream=True)]
    check_logprobs([entry for part in parts if part is not None for entry in part.content], expected, engine)


def check_text_logprobs(found: Any, expected: Any) -> None:
    assert (found.tokens, found.text_offset) == (expected.tokens, expected.text_offset)
    assert found.token_logprobs[0] == expected.token_logprobs[0] is None
    assert found.token_logprobs[1:] == pytest.approx(expected.token_logprobs[1:], abs=OFF)
    assert [top and [*top] for top in found.top_logprobs] == [top and [*top] for top in expected.top_logprobs]


def test_how_likely_a_prompt_is(client: OpenAI, engine: Engine) -> None:
    def complete(**given: Any) -> Any:
        return client.completions.create(model="s1-nano", **given)

    for question in (MESSAGES[0]["content"], "Add 3 and 4."):
        ids = engine.prepare(question).prompt.tolist()
        text, read = engine.tokenizer.decode(ids), engine.prompt_logprobs(ids, 2)
        expected = [one.logprob for one in read]
        params = {"prompt": text, "logprobs": 2, "echo": True}
        silent = complete(max_tokens=0, **params)
        choice = silent.choices[0]
        assert (choice.text, choice.finish_reason, silent.usage.completion_tokens) == (text, "length", 0)
        assert choice.logprobs.tokens == [engine.tokenizer.decode([token]) for token in ids]
        assert choice.logprobs.token_logprobs[0] is None and choice.logprobs.top_logprobs[0] is None
        assert choice.logprobs.token_logprobs[1:] == pytest.approx(expected, abs=OFF)
        for top, one in zip(choice.logprobs.top_logprobs[1:], read, strict=True):
            best = {engine.tokenizer.decode([token]): value for token, value in (*one.top, (one.token_id, one.logprob))}
            assert top == pytest.approx(best, abs=OFF)
        assert [
            text[at:].startswith(t) for at, t in zip(choice.logprobs.text_offset, choice.logprobs.tokens, strict=True)
        ]
        answered = complete(max_tokens=20, **params).choices[0]
        drawn = engine.generate([ids], SamplingParams(max_tokens=20, logprobs=2))[0].outputs[0]
        assert answered.text == text + drawn.text
        assert answered.logprobs.token_logprobs[1 : len(ids)] == pytest.approx(expected, abs=OFF)
        values = [one.logprob for one in drawn.logprobs or ()]
        assert answered.logprobs.token_logprobs[len(ids) :] == pytest.approx(values, abs=OFF)
        assert {2, 3} >= {len(top) for top in answered.logprobs.top_logprobs[1:]}
        for (at, token), (following, _) in pairwise(
            zip(answered.logprobs.text_offset, answered.logprobs.tokens, strict=True)
        ):
            assert following == at + len(token)
        chunks = [chunk.choices[0] for chunk in complete(max_tokens=20, stream=True, **params)]
        assert "".join(choice.text for choice in chunks) == answered.text
        parts = [choice.logprobs for choice in chunks if choice.logprobs is not None]
        streamed = parts[0].model_copy()
        for part in parts[1:]:
            for name in ("tokens", "text_offset", "token_logprobs", "top_logprobs"):
                setattr(streamed, name, getattr(streamed, name) + getattr(part, name))
        check_text_logprobs(streamed, answered.logprobs)


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": "Start with 20.\nAdd 26.\n", "steps": LINES, "labels": [" ", "7"]},
        {"prompt": [5, 6, 7], "steps": [[8, 9], "so 67\n", [10]], "labels": [17, 18, 19]},
        {"messages": MESSAGES, "steps": LINES, "labels": ["6", "7"], "mark": "\n"},
    ],
    ids=str,
)
def test_a_language_model_scores(server: RunningServer, engine: Engine, given: dict[str, Any]) -> None:
    prompt: Any = {"messages": MESSAGES} if "messages" in given else given["prompt"]
    prompt = {"text": prompt} if isinstance(prompt, str) else prompt
    expected = engine.score(prompt, given["steps"], given.get("mark"), given["labels"])
    reply = server.post("/v1/score", given).json()
    assert reply["scores"] == pytest.approx(expected.values, abs=OFF) and len({*reply["scores"]}) > 1
    assert reply["usage"]["prompt_tokens"] == expected.computed + expected.reused
    again = server.post("/v1/score", given).json()
    assert again["scores"] == reply["scores"] and again["usage"]["computed_tokens"] == 0
