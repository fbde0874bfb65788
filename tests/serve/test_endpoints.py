"""What no client library asks: tokens, templates, scores, health, metrics and the schema."""

import json
import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
from starlette.routing import Route

from engine import Engine, SamplingParams
from engine.model.checkpoint import resolve
from engine.serve import bodies
from engine.serve.metrics import Metrics
from engine.serve.options import parse
from engine.serve.routes import router
from engine.serve.served import Served
from engine.serve.service import Service
from tests.serve.running_server import RunningServer

MESSAGES = [{"role": "user", "content": "Start with 20.\nAdd 26.\nAdd 21.\nWhat is the result?"}]
LINES = ["Start with 20.\n", "Add 26. 20+26=46\n", "Add 21. 46+21=67\n", "so 68\n"]


@pytest.fixture(scope="module")
def judge() -> Iterator[RunningServer]:
    with RunningServer("--model", "models/s1-nano-prm", "--dtype", "float32") as running:
        yield running


@pytest.fixture(scope="module")
def reward() -> Iterator[Engine]:
    with Engine("models/s1-nano-prm", dtype="float32") as engine:
        yield engine


def ok(server: RunningServer, path: str, body: Any) -> Any:
    reply = server.post(path, body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def refused(server: RunningServer, path: str, body: Any, named: str, status: int = 400) -> None:
    reply = server.post(path, body)
    error = reply.json()["error"]
    assert reply.status_code == status and named in error["message"], reply.text
    assert set(error) == {"message", "type", "param", "code"}


def test_texts_become_tokens_and_back(server: RunningServer, engine: Engine) -> None:
    text = "Add 26. 20+26=46 \U0001f600"
    ids = engine.tokenizer.encode(text)
    reply = ok(server, "/tokenize", {"prompt": text, "return_token_strs": True})
    strings = reply.pop("token_strs")
    assert reply == {"tokens": ids, "count": len(ids), "max_model_len": engine.context}
    assert strings == [engine.tokenizer.decode([token]) for token in ids]
    assert ok(server, "/detokenize", {"tokens": ids}) == {"prompt": text}
    assert ok(server, "/tokenize", {"prompt": ""})["tokens"] == []


def test_messages_become_tokens(server: RunningServer, engine: Engine) -> None:
    rendered, prompt = engine.tokenizer.render(MESSAGES), engine.prepare({"messages": MESSAGES}).prompt.tolist()
    assert ok(server, "/tokenize", {"messages": MESSAGES})["tokens"] == prompt
    without = ok(server, "/tokenize", {"messages": MESSAGES, "add_generation_prompt": False})["tokens"]
    assert without == rendered[: len(without)] and 0 < len(without) < len(rendered)
    reply = ok(server, "/apply-template", {"messages": MESSAGES})
    assert reply == {"prompt": engine.tokenizer.decode(prompt), "tokens": prompt}
    begun = [*MESSAGES, {"role": "assistant", "content": "Answer:"}]
    ended, open_end = (
        ok(server, "/apply-template", {"messages": begun, "continue_final_message": goes_on})["prompt"]
        for goes_on in (False, True)
    )
    assert open_end.endswith("Answer:") and ended.startswith(open_end) and ended.endswith("<|im_start|>think")


def test_tokens_that_are_none_are_refused(server: RunningServer) -> None:
    refused(server, "/tokenize", {}, "exactly one of prompt and messages")
    refused(server, "/tokenize", {"prompt": "a", "messages": MESSAGES}, "exactly one of prompt and messages")
    refused(server, "/tokenize", {"prompt": 5}, "prompt")
    refused(server, "/tokenize", {"prompt": "a", "model": "gpt"}, "gpt", 404)
    refused(server, "/detokenize", {"tokens": ["a"]}, "tokens")
    for token in (-1, 10**6, 2**40):
        refused(server, "/detokenize", {"tokens": [5, token]}, f"{token} does not exist")
    refused(server, "/apply-template", {"messages": []}, "messages")
    refused(server, "/apply-template", {"messages": [{"role": "user", "content": 5}]}, "messages[0].content")


def test_scores_that_cannot_be_are_refused(server: RunningServer) -> None:
    given = {"prompt": "Add 26.\n", "steps": LINES, "labels": ["6", "7"]}
    for change, named in (
        ({"labels": []}, "labels"),
        ({"labels": ["6", "6"]}, "labels"),
        ({"labels": ["67", "7"]}, "labels"),
        ({"steps": []}, "steps"),
        ({"steps": ["a", ""]}, "steps[1]"),
        ({"steps": [[5], [10**6]]}, "steps[1]"),
        ({"mark": "two tokens"}, "mark"),
        ({"prompt": None}, "exactly one of prompt and messages"),
        ({"steps": [[5] * 3000]}, "2048"),
    ):
        refused(server, "/v1/score", given | change, named)
    refused(server, "/pooling", {"input": "a"}, "no reward model")


def test_a_reward_model_scores(judge: RunningServer, reward: Engine) -> None:
    expected = reward.score({"messages": MESSAGES}, LINES)
    reply = ok(judge, "/v1/score", {"messages": MESSAGES, "steps": LINES})
    assert reply["scores"] == pytest.approx(expected.values, abs=1e-4)
    assert reply["scores"][-1] < min(reply["scores"][:-1]), "the last line is the wrong one"
    ids = reward.tokenizer.render(MESSAGES)
    texts = [reward.tokenizer.decode(ids) + "".join(LINES[:end]) for end in (1, 4)]
    wholes = [reward.tokenizer.encode(text, specials=True) for text in texts]
    values = [reward.score(whole[:-1], [whole[-1:]]).values for whole in wholes]
    pooled = ok(judge, "/pooling", {"input": texts})
    assert [one["data"] for one in pooled["data"]] == [pytest.approx(value, abs=1e-4) for value in values]
    assert [one["index"] for one in pooled["data"]] == [0, 1]
    assert pooled["usage"]["prompt_tokens"] == pooled["usage"]["total_tokens"] == sum(map(len, wholes))
    assert ok(judge, "/pooling", {"input": wholes})["data"] == pooled["data"]
    assert ok(judge, "/pooling", {"input": wholes[0]})["data"] == pooled["data"][:1]


def test_a_reward_model_draws_nothing(judge: RunningServer) -> None:
    for path, body in (
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/completions", {"prompt": "a"}),
    ):
        refused(judge, path, body, "gives scores and draws no tokens")
    reply = judge.post("/v1/messages", {"messages": MESSAGES, "max_tokens": 50})
    assert reply.status_code == 400 and reply.json()["type"] == "error"
    refused(judge, "/v1/score", {"prompt": "a", "steps": ["b"], "labels": ["6", "7"]}, "labels")
    refused(judge, "/pooling", {"input": "a", "messages": MESSAGES}, "exactly one of input and messages")
    refused(judge, "/pooling", {"input": ["a", ""]}, "input[1]")
    assert judge.get("/server_info").json()["scores"] is True


def test_health(server: RunningServer) -> None:
    assert server.get("/health").json() == {"status": "ok", "state": "ready"}
    assert server.get("/health/ready").json() == {"status": "ready"}


def test_server_info(server: RunningServer, engine: Engine) -> None:
    info = server.get("/server_info").json()
    assert info["model"] == "s1-nano" and info["max_model_len"] == engine.context and info["ui"] is True
    assert info["thinking"]["opener"] == "<|im_start|>think" and info["thinking"]["end"] == "<|im_start|>answer"
    assert SamplingParams.from_dict(info["default_params"]) == engine.default_params
    (replica,) = info["replicas"]
    assert replica["pages_total"] == engine.stats()["pages_total"] and {"running", "waiting"} <= set(replica)


def figures(server: RunningServer) -> dict[str, float]:
    """Every sample of /metrics."""
    page = server.get("/metrics").text
    return {name: float(value) for name, value in re.findall(r"^(s1_\S+) (\S+)$", page, re.MULTILINE)}


def test_metrics_move(server: RunningServer) -> None:
    before = figures(server)
    body = {"messages": MESSAGES, "thinking_token_budget": 50, "thinking_extensions": 1, "n": 2}
    reply = ok(server, "/v1/chat/completions", body)
    refused(server, "/v1/chat/completions", body | {"n": 0}, "n")
    after = figures(server)
    moved = {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}
    usage = reply["usage"]
    for name, value in {
        "s1_prompt_tokens_total": usage["prompt_tokens"],
        "s1_completion_tokens_total": usage["completion_tokens"],
        "s1_forced_tokens_total": usage["completion_tokens_details"]["forced_tokens"],
        's1_samples_total{finish_reason="stop"}': 2,
        's1_thinking_ends_total{stop_reason="budget"}': 2,
        "s1_extensions_total": 2,
        "s1_thinking_tokens_sum": 100,
        "s1_request_seconds_count": 1,
        's1_http_replies_total{status="200"}': 2,  # the page itself is one
        's1_http_replies_total{status="400"}': 1,
    }.items():
        assert moved[name] == value
    assert moved['s1_engine_steps_total{replica="0"}'] >= 50
    assert after["s1_ready"] == 1 and after["s1_open_requests"] == 0
    assert not re.search("Start with|chatcmpl", server.get("/metrics").text)


def test_the_schema_has_every_body(server: RunningServer) -> None:
    schema = server.get("/openapi.json").json()
    options = parse([])
    service = Service(options.engine_config(), resolve(options.model), SamplingParams(), 1)
    made = router(Served(options, service, Metrics(service)))
    routes = [route for route in made.routes if isinstance(route, Route)]
    posts = {route.path for route in routes if "POST" in (route.methods or ())}
    assert posts and posts == {path for path, methods in schema["paths"].items() if "post" in methods}
    assert schema["openapi"] == "3.1.0" and {"title", "version"} <= set(schema["info"])
    for reference in re.findall(r'"\$ref": ?"(#[^"]*)"', json.dumps(schema)):
        found = schema
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]
        assert isinstance(found, dict)
    chat = schema["components"]["schemas"]["ChatBody"]
    assert chat["additionalProperties"] is False and chat["required"] == ["messages"]
    assert {"thinking_token_budget", "thinking_extensions", "reasoning_effort"} <= set(chat["properties"])


def test_the_schema_has_what_stands_in_paths(server: RunningServer) -> None:
    for path, methods in server.get("/openapi.json").json()["paths"].items():
        for name in re.findall(r"{(\w+)}", path):
            expected = {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            assert methods and all(expected in one.get("parameters", []) for one in methods.values())


def test_a_stream_is_events(server: RunningServer) -> None:
    reply = server.post("/v1/chat/completions", {"messages": MESSAGES, "stream": True})
    assert reply.headers["content-type"] == "text/event-stream" and reply.headers["cache-control"] == "no-cache"
    *events, last, end = reply.text.split("\n\n")
    assert (last, end) == ("data: [DONE]", "") and all(json.loads(one.removeprefix("data: ")) for one in events)
    reply = server.post("/v1/messages", {"messages": MESSAGES, "max_tokens": 300, "stream": True})
    for one in reply.text.removesuffix("\n\n").split("\n\n"):
        name, data = one.split("\n")
        assert json.loads(data.removeprefix("data: "))["type"] == name.removeprefix("event: ")


def test_routes_and_methods_that_are_none(server: RunningServer) -> None:
    refused(server, "/v1/embeddings", {}, "/v1/embeddings", 404)
    refused(server, "/health", {}, "POST", 405)
    assert server.get("/v1/chat/completions").status_code == 405


def test_every_parameter_of_a_request_may_be_in_a_body() -> None:
    parameters = {field.name for field in fields(SamplingParams)} - {"logprobs", "continue_final_message"}
    assert parameters <= set(bodies.Sampling.__struct_fields__)
    assert {"logprobs", "continue_final_message"} <= set(bodies.ChatBody.__struct_fields__)


def test_a_model_is_known_by_its_name(server: RunningServer) -> None:
    listed = server.get("/v1/models").json()["data"]
    assert [server.get(f"/v1/models/{one['id']}").json() for one in listed] == listed
    assert server.get("/v1/models/another").status_code == 404
    assert server.get("/v1/models/one/of/a/hub").status_code == 404
