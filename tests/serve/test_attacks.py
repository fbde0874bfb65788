"""What once broke the server: replies of any size, work for nobody, connections that stay, names that mislead."""

import json
import signal
import threading
import time

import httpx2
import openai
import pytest

from engine import SamplingParams
from tests.serve.bad_inputs import CHAT, COMPLETIONS
from tests.serve.raw_socket import connect, exchanged, post, rest, status
from tests.serve.running_server import RunningServer
from tests.serve.test_life import workers

QUESTION = [{"role": "user", "content": "How many r in raspberry?"}]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (COMPLETIONS, {"prompt": [5] * 2000, "max_tokens": 0, "echo": True, "logprobs": 64, "n": 64}, "logprobs"),
        (COMPLETIONS, {"prompt": [5] * 9, "max_tokens": 0, "echo": True, "n": 65}, "n"),
        (CHAT, {"messages": QUESTION, "n": 64, "logprobs": True, "top_logprobs": 64, "max_tokens": 1900}, "logprobs"),
        ("/tokenize", {"prompt": "1 + 2 = 3, " * 450_000}, "prompt"),
        (
            "/v1/score",
            {"prompt": [5], "steps": ["1 + 2 = 3, " * 2000] * 200, "labels": ["a", "b"]},
            "the context holds",
        ),
    ],
)
def test_replies_have_a_size_and_refusals_come_at_once(server, path, body, field):
    started = time.monotonic()
    reply = server.post(path, body)
    assert reply.status_code == 400 and field in reply.json()["error"]["message"]
    assert time.monotonic() - started < 5


def test_a_large_reply_stops_no_other(server):
    """Made on a thread: while it is, the server answers."""
    body = {"messages": QUESTION, "n": 32, "logprobs": True, "top_logprobs": 20, "max_tokens": 600, "ignore_eos": True}
    replies = []
    large = threading.Thread(target=lambda: replies.append(server.post(CHAT, body)))
    large.start()
    worst = 0.0
    while large.is_alive():
        started = time.monotonic()
        assert server.get("/health").status_code == 200
        worst = max(worst, time.monotonic() - started)
    large.join()
    assert replies[0].status_code == 200 and len(replies[0].content) > 4_000_000
    assert worst < 2, "it took 11 s on the event loop"


def test_the_end_waits_for_what_draws_nothing_too():
    body = {"prompt": [[5 + i % 7 for i in range(1900)]] * 24, "max_tokens": 1, "echo": True, "logprobs": 5}
    with RunningServer("--max-num-batched-tokens", "64") as server:
        replies = []
        asked = threading.Thread(target=lambda: replies.append(server.post(COMPLETIONS, body)))
        asked.start()
        while "s1_open_requests 0.0" in server.get("/metrics").text:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        asked.join(120)
        assert replies[0].status_code == 200 and len(replies[0].json()["choices"]) == 24
        assert server.process.wait(30) == 0


def test_prompts_that_do_not_fit_leave_no_work_behind():
    prompts = [[5 + i % 7 for i in range(1900)]] * 60
    with RunningServer("--max-waiting", "10") as server:
        body = {"prompt": prompts, "echo": True, "logprobs": 1, "max_tokens": 1}
        reply = server.post(COMPLETIONS, body)
        assert reply.status_code == 400 and "10 samples in all" in reply.json()["error"]["message"]
        several = threading.Thread(target=lambda: server.post(COMPLETIONS, body | {"prompt": prompts[:9]}))
        several.start()
        while "s1_open_requests 0.0" in server.get("/metrics").text:
            time.sleep(0.001)
        assert server.post(COMPLETIONS, body | {"prompt": prompts[:9]}).status_code in (200, 429)
        several.join()
        assert "s1_open_requests 0.0" in server.get("/metrics").text


def test_thinking_that_opens_behind_a_text_streams_as_it_is_told_whole(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        differ = 0
        for seed in range(190, 206):
            given = {
                "model": "s1-nano",
                "messages": [*QUESTION, {"role": "assistant", "content": "é"}],
                "max_tokens": 400,
                "temperature": 1,
                "seed": seed,
                "extra_body": {"continue_final_message": True, "loop_ngram": 4, "loop_count": 2},
            }
            whole = client.chat.completions.create(**given).choices[0]
            chunks = [one.choices[0].delta for one in client.chat.completions.create(**given, stream=True)]
            assert "".join(one.content or "" for one in chunks) == whole.message.content
            differ += whole.thinking["tokens"] > 0
        assert differ, "no case thought"


def test_offsets_are_those_of_the_text(server, engine):
    text = "1 😀é日 2"
    body = {"prompt": text, "echo": True, "logprobs": 0, "max_tokens": 8, "ignore_eos": True}
    whole = server.post(COMPLETIONS, body).json()["choices"][0]
    told = whole["logprobs"]
    assert len(told["tokens"]) == len(engine.tokenizer.encode(text)) + 8
    for token, offset in zip(told["tokens"], told["text_offset"], strict=True):
        assert "\ufffd" in token or whole["text"][offset:].startswith(token), (token, offset)


@pytest.mark.parametrize("host", ["127.0.0.2", "::1"])
def test_it_answers_to_the_address_that_it_listens_at(host):
    with RunningServer("--host", host) as server:
        assert server.get("/health").status_code == 200
        assert httpx2.get(f"{server.url}/health", headers={"Host": "localhost.evil.example"}).status_code == 403


def test_a_reply_that_nobody_reads_and_a_body_that_nobody_wants_are_let_go_of():
    """Both connections end, although each was answered."""
    large = {"prompt": [5] * 2000, "max_tokens": 0, "echo": True, "logprobs": 20, "n": 20}
    with RunningServer("--stall-timeout", "1", "--read-timeout", "1") as server:
        unwanted = post(CHAT, b"{}").replace(b"application/json", b"text/plain")
        unwanted = unwanted.replace(b"Content-Length: 2", b"Content-Length: 1000000")
        with connect(server.url, receive_bytes=4096) as unread, connect(server.url) as unfinished:
            unread.sendall(post(COMPLETIONS, json.dumps(large).encode()))
            unfinished.sendall(unwanted)
            assert b" 415 " in unfinished.recv(1 << 16)
            unfinished.sendall(b"x")
            rest(unfinished)  # comes to an end
            server.wait_for(r"POST /v1/completions (200|499)")
            time.sleep(2)
            assert len(rest(unread)) < 20_000_000, "it was kept for a client that did not read"


def test_lengths_that_contradict_each_other_are_refused(server):
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    both = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    reply = exchanged(server.url, head + both + b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status(reply) == 400 and reply.count(b"HTTP/1.1") == 1


def test_a_line_of_the_log_has_its_words_where_they_belong(server):
    before = len(server.said)
    headers = {"X-Request-Id": "abc GET /v1/admin 200 ms=1"}
    assert httpx2.get(f"{server.url}/a%20200%20ms=1", headers=headers).status_code == 404
    end = time.monotonic() + 5
    found: list[str] = []
    while not found and time.monotonic() < end:
        time.sleep(0.01)
        found = [line for line in server.said[before:] if " 404 " in line]
    _, identity, method, path, code = found[0].split()[:5]
    assert (method, path, code) == ("GET", "/a%20200%20ms=1", "404") and identity != "abc"


def test_without_an_engine_it_is_not_ready():
    with RunningServer("--data-parallel-size", "2") as server:
        for engine in workers(server):
            server.kill(engine)
        end = time.monotonic() + 20
        seen = set()
        while time.monotonic() < end and seen != {200, 503}:
            seen.add(server.get("/health/ready").status_code)
            if 503 in seen:
                time.sleep(0.1)
        assert seen == {200, 503}, "it was never away, or never came back"


@pytest.mark.parametrize(
    "flags",
    [
        ("--served-model-name", "two words"),
        ("--data-parallel-size", "1000000000"),
        ("--allowed-origins", "*"),
        ("--reasoning-effort-budgets", "a", "99999999999"),
    ],
)
def test_flags_that_would_do_nothing_are_refused(flags):
    with pytest.raises(AssertionError, match=flags[0]):
        RunningServer(*flags)


def test_said_is_the_answer_where_nothing_stands_before_the_thinking(engine):
    """The text of a reply, and `answer` of the engine, differ in nothing but what was written before it thought."""
    handle = engine.submit("How many r in raspberry?", SamplingParams(thinking_token_budget=20, max_tokens=80))
    output = handle.result(60)
    assert handle.response.said(0) == output.outputs[0].answer
