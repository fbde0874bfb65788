"""The load generator: seconds of load on the real server, and its arithmetic by hand."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from bench.peers.worker import Setup, WorkerFailed
from bench.record import read
from bench.serve import Options, Questions, Run
from bench.serving.figures import Goals, figures, over_rounds, percentile, ratios
from bench.serving.load import Load
from bench.serving.server import Program, Server
from bench.serving.stream import Reply, Request, Stream
from engine import InputError

NANO = "models/s1-nano"
SETUP = Setup(checkpoint=NANO, dtype="auto", device="cpu", threads=1, max_model_len=256, max_num_seqs=8, dummy=False)
OPTIONS = Options(model=NANO, requests=24, concurrency=4, context=16, tokens=12, device="cpu")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(Program.engine(SETUP), SETUP, tmp_path_factory.mktemp("server") / "log") as running:
        yield running


@pytest.fixture(scope="module")
def asked() -> list[Request]:
    return Questions(OPTIONS).requests(OPTIONS, 0, ours=True)


def test_a_closed_loop_keeps_so_many_open_and_counts_every_token(server: Server, asked: list[Request]) -> None:
    with server.turn():
        replies = Load(4).run(server.port, asked, seed=0)
    assert [(reply.error, reply.tokens) for reply in replies] == [(None, 12)] * 24
    assert all(reply.due <= reply.sent < reply.first <= reply.end for reply in replies if reply.first is not None)
    assert all(reply.first is not None for reply in replies)
    changes = sorted([(reply.sent, 1) for reply in replies] + [(reply.end, -1) for reply in replies])
    open_now = [sum(change for _, change in changes[: at + 1]) for at in range(len(changes))]
    assert max(open_now) == 4 and open_now[-1] == 0


def test_an_open_loop_asks_at_its_times_whatever_the_server_does(server: Server, asked: list[Request]) -> None:
    load, woken = Load(4, rate=100.0), threading.Event()

    def serve() -> None:
        with server.turn():
            woken.wait(60)

    late = threading.Timer(2.0, serve)  # until then the server stands still
    begun = time.perf_counter()
    late.start()
    replies = load.run(server.port, asked, seed=3)
    woken.set()
    late.join()
    assert [(reply.error, reply.tokens) for reply in replies] == [(None, 12)] * 24
    gaps = [b.due - a.due for a, b in pairwise(replies)]
    assert gaps == pytest.approx([b - a for a, b in pairwise(load.arrivals(24, 3))], abs=1e-9)
    assert all(reply.due <= reply.sent < begun + 2.0 < (reply.first or 0) for reply in replies)


def test_arrivals_are_those_of_their_seed() -> None:
    times = Load(1, rate=8.0).arrivals(4000, seed=5)
    assert times == Load(9, rate=8.0).arrivals(4000, seed=5) != Load(1, rate=8.0).arrivals(4000, seed=6)
    assert all(a < b for a, b in pairwise(times))
    # of 4,000 intervals the mean is within 5 standard errors of 1/8 but for one seed in a million
    assert times[-1] / 4000 == pytest.approx(1 / 8, rel=5 / 4000**0.5)


def test_no_chat_thinks_beyond_its_budget(server: Server) -> None:
    options = replace(OPTIONS, chat=True, budget=20, tokens=80)
    with server.turn():
        replies = Load(4).run(server.port, Questions(options).requests(options, 0, ours=True), seed=0)
    assert [reply.error for reply in replies] == [None] * 24
    assert [reply.overshoot for reply in replies] == [0] * 24
    assert max(reply.reasoning or 0 for reply in replies) == 20, "budgets that nobody reaches say nothing"
    # A time is that of a read, and one read of a busy reader may bring both.
    assert all(reply.first and reply.answer and reply.first <= reply.answer <= reply.end for reply in replies)
    assert any(reply.first < reply.answer for reply in replies if reply.first and reply.answer)
    assert replace(replies[0], budget=3, reasoning=5).overshoot == 2


def test_what_goes_wrong_is_told(server: Server) -> None:
    wrong = Request.completion([10**6], 4)
    short = replace(Request.completion([5, 6, 7], 4), tokens=5)
    with server.turn():
        first, second = Load(2).run(server.port, [wrong, short], seed=0)
    assert first.error is not None and "400 Bad Request" in first.error and "1000000" in first.error
    assert second.error == "4 tokens instead of 5"
    (nobody,) = Load(1).run(1, [short], seed=0)
    assert nobody.error is not None and nobody.tokens == 0 and nobody.end >= nobody.due


def test_a_server_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    setup = replace(SETUP, checkpoint=str(tmp_path / "nothing"))
    with pytest.raises(WorkerFailed, match=r"did not come up.*nothing"):
        Server(Program.engine(setup), setup, tmp_path / "log")


EVENTS = (
    b'{"choices":[{"delta":{"role":"assistant","content":""}}]}',
    b'{"choices":[{"delta":{"reasoning":"\\"content\\":\\"x","reasoning_content":"x"}}]}',
    b'{"choices":[{"delta":{"content":"7"}}],"usage":null}',
    b'{"choices":[],"usage":{"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":6}}}',
)
STREAM = b"HTTP/1.1 200 OK\r\n\r\n" + b"".join(b"data: %s\n\n" % event for event in EVENTS) + b"data: [DONE]\n\n"


def read_in(size: int, data: bytes = STREAM) -> tuple[Stream, dict[str, int], Reply]:
    """A chat's stream that comes in pieces of `size` bytes; behind which byte first token and answer were seen."""

    async def run() -> tuple[Stream, dict[str, int], Reply]:
        stream, seen = Stream(Request.chat("?", 9, 4), 0.0), dict[str, int]()
        for at in range(0, len(data), size):
            stream.data_received(data[at : at + size])
            for name in ("first", "answer"):
                if getattr(stream, f"_{name}") is not None:
                    seen.setdefault(name, min(at + size, len(data)))
        return stream, seen, stream._reply(None)

    return asyncio.run(run())


def test_marks_are_found_wherever_reads_begin() -> None:
    thought, answer = STREAM.index(b'"reasoning":"') + 14, STREAM.index(b'"content":"7') + 12
    for size in (1, 2, 7, 64, len(STREAM)):
        _, seen, reply = read_in(size)
        assert seen == {"first": min(-(-thought // size) * size, len(STREAM)), "answer": -(-answer // size) * size} or (
            size == len(STREAM) and seen == {"first": size, "answer": size}
        )
        assert (reply.tokens, reply.reasoning, reply.overshoot, reply.error) == (9, 6, 2, None)


def test_a_stream_without_its_end_is_an_error() -> None:
    assert read_in(64, STREAM[:-16])[2].error == "the stream was cut"
    failed = STREAM.replace(EVENTS[-1], b'{"error":{"message":"dead"}}')
    assert "dead" in (read_in(64, failed)[2].error or "")


def test_figures_by_hand() -> None:
    replies = [
        Reply(due=0.0, sent=0.1, end=2.0, first=0.5, answer=1.0, tokens=16, reasoning=5, budget=4),
        Reply(due=1.0, sent=1.0, end=4.0, first=3.0, answer=3.5, tokens=11, reasoning=4, budget=4),
        Reply(due=1.0, sent=1.0, end=2.0, tokens=3, error="cut"),
    ]
    found = figures(replies, Goals(ttft=1.0, answer=5.0), {"http_cpu": 2.7})
    assert (found["requests_s"], found["tok_s"], found["errors"]) == (0.5, 27 / 4, 1)
    assert (found["ttft_p50_ms"], found["ttft_p99_ms"], found["answer_p99_ms"]) == (500, 2000, 2500)
    assert (found["end_p50_s"], found["end_p99_s"]) == (2.0, 3.0)
    assert (found["between_p50_ms"], found["between_p99_ms"]) == (100, 100)
    assert found["goodput"] == pytest.approx(1 / 3), "a late first token, and an error, are not good"
    assert (found["overshoot"], found["http_cpu_us_token"]) == (1, pytest.approx(1e5))
    both = over_rounds([found, {**found, "tok_s": 9.75, "overshoot": 7, "errors": 2, "ttft_p50_ms": None}])
    assert (both["tok_s"], both["overshoot"], both["errors"], both["ttft_p50_ms"]) == (8.25, 7, 3, 500)
    assert [Goals(ttft, answer).met(replies[0]) for ttft, answer in ((0.4, 5), (0.5, 0.9), (0.5, None))] == [0, 0, 1]
    slow = {"tok_s": 27 / 8, "ttft_p50_ms": 1500.0}
    assert ratios([found, found], [slow, slow]) == {"ratio": 2.0, "ttft_ratio": 3.0}


def test_percentiles() -> None:
    assert percentile([], 0.5) is None
    assert [percentile([4, 1, 3, 2], share) for share in (0.0, 0.25, 0.5, 0.51, 0.99)] == [1, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"against": ("vllm",)}, "needs --peer-python"),
        ({"against": ("engine",), "rate": 8.0}, "leave out --chat and --rate"),
        ({"rate": 0.0}, "--rate is 0.0"),
        ({"requests": 0}, "start at 1"),
        ({"chat": True, "budget": 128}, "raise --tokens"),
    ],
)
def test_flags_that_do_not_go_together(flags: dict[str, object], why: str) -> None:
    with pytest.raises(InputError, match=why):
        Options(**flags)  # type: ignore[arg-type]


def test_a_run_of_chats_that_come_by_the_clock() -> None:
    options = replace(OPTIONS, chat=True, rate=40.0, budget=20, tokens=80, rounds=1)
    (found,) = Run(options, Console()).all().values()
    assert (found["errors"], found["overshoot"]) == (0, 0)
    assert 0 < (found["ttft_p50_ms"] or 0) < (found["answer_p50_ms"] or 0) <= 1e3 * (found["end_p99_s"] or 0)
    came = options.load.arrivals(24, 0)
    assert 24 / (came[-1] - came[0]) > (found["requests_s"] or 0) > 0


def test_a_run_beside_the_engine_is_recorded(tmp_path: Path) -> None:
    words = ["--model", NANO, "--requests", "16", "--concurrency", "4", "--context", "16", "--tokens", "24"]
    more = ["--rounds", "2", "--device", "cpu", "--against", "engine", "--output", str(tmp_path / "out.jsonl")]
    done = subprocess.run([sys.executable, "-m", "bench.serve", *words, *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = {line.case["side"]: line for line in read(tmp_path / "out.jsonl")}
    ours, engine = lines["s1-engine"].figures, lines["engine"].figures
    assert ours["errors"] == 0 and lines["engine"].threads == 1
    assert (ours["tok_s"] or 0) == pytest.approx(24 * (ours["requests_s"] or 0), rel=1e-3)
    assert 0.02 < (engine["ratio"] or 0) < 5 and "ratio" not in ours
    assert "tok_s" in done.stdout and 0 < (ours["http_cpu_us_token"] or 0) < (ours["server_cpu_us_token"] or 0)
