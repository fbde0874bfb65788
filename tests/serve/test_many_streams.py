"""Many streams at once, of which some are dropped, steered or aborted: every answer is the one that the engine gives
alone, nothing stays behind, and memory does not grow."""

import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from engine import Engine, SamplingParams
from tests.serve.running_server import RunningServer
from tests.serve.test_life import workers

ACTIONS = ("none", "none", "none", "drop", "end_thinking", "budget", "abort")
QUESTIONS = [f"How many {letter} in {word}?" for letter in "re" for word in ("raspberry", "strawberry", "committee")]


def asked(number: int) -> tuple[str, SamplingParams]:
    """One of the sixty different requests."""
    draw = random.Random(number)
    return draw.choice(QUESTIONS), SamplingParams(
        max_tokens=draw.choice((60, 200, 400)),
        min_thinking_tokens=draw.choice((0, 0, 150)),
        thinking_extensions=draw.choice((0, 1, 3)),
        temperature=draw.choice((0.0, 1.0)),
        seed=number,
        thinking_token_budget=draw.choice((None, 20, 160)) if number % 2 else None,
    ) if number % 2 == 0 else SamplingParams(max_tokens=300, temperature=1.0, seed=number, thinking_token_budget=200)


@dataclass
class Outcome:
    """What came of one request."""

    number: int
    action: str
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    thinking: dict = field(default_factory=dict)


async def exchange(server: RunningServer, method: str, path: str, body: dict | None):
    """A connection on which the request has been sent."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 22)
    data = json.dumps(body).encode() if body is not None else b""
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    return reader, writer


async def stream(server: RunningServer, number: int, draw: random.Random) -> Outcome:
    """One chat, with what happens to it."""
    question, params = asked(number)
    outcome = Outcome(number, draw.choice(ACTIONS))
    given = {f: getattr(params, f) for f in ("max_tokens", "min_thinking_tokens", "thinking_extensions", "seed")}
    body = {
        "messages": [{"role": "user", "content": question}],
        "temperature": params.temperature,
        "thinking_token_budget": params.thinking_token_budget,
        "stream": True,
        "return_token_ids": True,
        **given,
    }
    reader, writer = await exchange(server, "POST", "/v1/chat/completions", body)
    due, chunks = draw.randrange(1, 60), 0
    try:
        while line := await reader.readline():
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            assert "error" not in chunk, chunk
            choice = chunk["choices"][0]
            outcome.token_ids += choice.get("token_ids", ())
            if choice["finish_reason"] is not None:
                outcome.finish_reason, outcome.thinking = choice["finish_reason"], choice["thinking"]
            chunks += 1
            if chunks == due and outcome.action == "drop":
                writer.transport.abort()
                return outcome
            if chunks == due and outcome.action != "none":
                await steer(server, chunk["id"], outcome.action)
    finally:
        writer.close()
    assert outcome.finish_reason is not None, "the stream broke off"
    return outcome


async def steer(server: RunningServer, identity: str, action: str) -> None:
    """Tell a request what to do. It may be over already."""
    path = f"/v1/requests/{identity}"
    if action == "abort":
        reader, writer = await exchange(server, "DELETE", path, None)
    else:
        body = {"action": "budget", "budget": 30} if action == "budget" else {"action": action}
        reader, writer = await exchange(server, "POST", f"{path}/control", body)
    status = int((await reader.readline()).split()[1])
    assert status in (200, 404), await reader.read()
    writer.close()


async def soak(server: RunningServer, streams: int, seconds: float) -> tuple[list[Outcome], list[tuple[float, int]]]:
    """Keep so many streams open for so long. Returns what came of each, and (time, resident bytes) of the processes."""
    outcomes: list[Outcome] = []
    memory: list[tuple[float, int]] = []
    end = time.monotonic() + seconds

    async def client(seed: int) -> None:
        draw = random.Random(seed)
        while time.monotonic() < end:
            outcomes.append(await asyncio.wait_for(stream(server, draw.randrange(60), draw), 120))

    async def watch() -> None:
        pids = [server.process.pid, *workers(server)]
        while time.monotonic() < end:
            memory.append((time.monotonic(), sum(resident(pid) for pid in pids)))
            await asyncio.sleep(0.5)

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        for seed in range(streams):
            group.create_task(client(seed))
    return outcomes, memory


def resident(pid: int) -> int:
    """Bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def check(outcomes: list[Outcome], engine: Engine) -> None:
    """Against the same engine in this process, alone."""
    prompts, params = zip(*(asked(number) for number in range(60)), strict=True)
    alone = [output.outputs[0] for output in engine.generate(prompts, params)]
    closed = sorted({(o.number, o.thinking["tokens"]) for o in outcomes if o.thinking.get("stop_reason") == "client"})
    cut = engine.generate(
        [prompts[n] for n, _ in closed],
        [
            replace(params[n], thinking_token_budget=t, min_thinking_tokens=min(t, params[n].min_thinking_tokens))
            for n, t in closed
        ],
    )
    ended = dict(zip(closed, (output.outputs[0] for output in cut), strict=True))
    for outcome in outcomes:
        expected, got = alone[outcome.number].token_ids, outcome.token_ids
        if outcome.action == "drop" or outcome.finish_reason == "abort":
            assert got == expected[: len(got)], outcome
        elif outcome.thinking["stop_reason"] == "client":
            upto = outcome.thinking["tokens"]
            assert got[:upto] == expected[:upto], outcome
            if not outcome.thinking["extensions"]:  # a budget grants none that it has no room for
                assert got[:upto] == ended[outcome.number, upto].token_ids[:upto], outcome
        elif outcome.action == "end_thinking" and got != expected:
            # told just where the model wanted to end, which the minimum had kept it from: natural wins
            upto = outcome.thinking["tokens"]
            assert outcome.thinking["stop_reason"] == "natural" and got[:upto] == expected[:upto], outcome
        elif outcome.action != "budget":
            assert got == expected, outcome
            assert outcome.thinking["tokens"] == alone[outcome.number].thinking.tokens
        else:  # moved to 30 while it thought, or said, more or less: nothing before that changes
            same = next((i for i, (a, b) in enumerate(zip(got, expected, strict=False)) if a != b), len(got))
            assert got == expected or same >= 30, outcome


def settled(server: RunningServer) -> None:
    """Nothing runs, and every page is free."""
    end = time.monotonic() + 20
    while True:
        (stats,) = server.get("/server_info").json()["replicas"]
        if stats["running"] == stats["waiting"] == 0 and stats["pages_free"] == stats["pages_total"]:
            break
        assert time.monotonic() < end, stats
        time.sleep(0.1)
    assert "s1_open_requests 0.0" in server.get("/metrics").text


@pytest.mark.parametrize(
    ("streams", "seconds"), [(32, 3), pytest.param(256, 120, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_every_answer_is_the_engine_s_own(engine, streams, seconds):
    # A pool whose pages are all used within seconds: memory that nothing has been written to is not resident.
    with RunningServer("--max-num-seqs", "256", "--kv-cache-tokens", "65536") as server:
        outcomes, memory = asyncio.run(soak(server, streams, seconds))
        settled(server)
        check(outcomes, engine)
        counts = {action: sum(one.action == action for one in outcomes) for action in set(ACTIONS)}
        assert all(counts.values()), counts
        begun, half = memory[0][0], [used for at, used in memory if at > memory[0][0] + seconds / 4]
        first, last = (statistics.median(part) for part in (half[: len(half) // 3], half[-len(half) // 3 :]))
        minutes = (memory[-1][0] - begun) / 60
        print(
            f"{len(outcomes)} requests {counts}, memory {first / 1e6:.1f} to {last / 1e6:.1f} MB in {minutes:.1f} min"
        )
        if seconds >= 60:
            assert last - first < 4 << 20, "memory grows"
