"""Engines in processes of their own: the wire, who gets what, one that is killed."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from array import array
from pathlib import Path

import pytest

from engine import Engine, SamplingParams
from engine.config import EngineConfig
from engine.errors import EngineDead, InputError
from engine.messages import Event, Seen, decode_events, encode_events
from engine.prepare import Preparer
from engine.replicas.blocking import ReplicatedEngine
from engine.replicas.prefixes import Prefixes, page_keys
from engine.replicas.replicas import Replicas
from engine.replicas.wire import HEAD_BYTES, Channel, Kind, frame, head
from engine.text.tokenizer import Tokenizer

NANO = Path("models/s1-nano")


def test_events_arrive_as_they_were_sent():
    events = [
        Event(Seen(3, 1, 64, 12.5), [5, 2, 0, 0, 7, 1, 0, 0, 0], -0.5, ((5, -0.5), (9, float("-inf")))),
        Event(Seen(4, 0, 0, None), [-1, 0, 0, 0, 0, 0, 0, 0, 0], score=(17, 0.25)),
    ]
    assert decode_events(encode_events(events)) == events


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\x81\xa1a\x01"])
def test_what_is_no_events_is_refused(data):
    with pytest.raises(EngineDead, match="are no events"):
        decode_events(data)


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff\x03", b"\x00\x00\x00\x00\x09"])
def test_a_head_of_no_frame_is_refused(data):
    with pytest.raises(EngineDead, match="came over the wire"):
        head(data)


def test_frames_come_whole_however_they_are_cut():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel, data = Channel(theirs), frame(Kind.COMMANDS, b"abc") + frame(Kind.STATS, b"")
        assert channel.receive(wait=False) == []
        for cut in (2, HEAD_BYTES):
            ours.sendall(data[:cut])
            assert channel.receive(wait=False) == []
            data = data[cut:]
        ours.sendall(data)
        assert channel.receive(wait=True) == [(Kind.COMMANDS, b"abc"), (Kind.STATS, b"")]
        ours.close()
        assert channel.receive(wait=True) is None


def test_prefixes_are_known_page_by_page_and_in_order():
    tokens, known = array("i", range(300)), Prefixes()
    keys = page_keys(tokens, 64)
    assert len(keys) == 4 and known.known(keys) == 0
    known.sent(keys[:3])
    assert known.known(keys) == 3
    other = array("i", [7, *range(1, 300)])
    assert known.known(page_keys(other, 64)) == 0, "a page is known with what stands before it"


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.load(NANO)


@pytest.fixture(scope="module")
def two(tokenizer):
    with ReplicatedEngine(EngineConfig(model=str(NANO), max_num_seqs=8), tokenizer, 2) as engines:
        yield engines


@pytest.fixture(scope="module")
def preparer(tokenizer, two):
    return Preparer(tokenizer, "auto", two.context)


def test_answers_are_those_of_one_engine(two, preparer):
    params = [SamplingParams(temperature=1.0, max_tokens=80, n=2, thinking_extensions=i % 3) for i in range(24)]
    handles = [
        two.submit_prepared(preparer.prepare(f"How many r in raspberry{i}?", each), place=i)
        for i, each in enumerate(params)
    ]
    with Engine(NANO) as engine:
        alone = engine.generate([f"How many r in raspberry{i}?" for i in range(24)], params)
    for handle, output in zip(handles, alone, strict=True):
        got = handle.result(60)
        assert [s.token_ids for s in got.outputs] == [s.token_ids for s in output.outputs]
        assert [(s.reasoning, s.answer, s.thinking, s.forced) for s in got.outputs] == [
            (s.reasoning, s.answer, s.thinking, s.forced) for s in output.outputs
        ]


def test_both_work_and_a_common_prefix_goes_to_one(two, preparer):
    """Six prompts in two families of three, whose first two pages are common: each family's pages are computed once."""
    settle(two)
    before = two.stats()
    texts = [" ".join(str(family * 1000 + i) for i in range(60)) for family in (1, 2)]
    for question in range(3):
        for text in texts:
            prompt = preparer.prepare({"text": f"{text} {question}"}, SamplingParams(max_tokens=4))
            assert len(prompt.prompt) > 150
            two.submit_prepared(prompt).result(60)
    settle(two)
    hits = two.stats()["prefix_hit_tokens"] - before["prefix_hit_tokens"]
    assert hits >= 4 * 128
    assert all(replica.stats["steps"] > 0 for replica in two._replicas.all)


def settle(engines: ReplicatedEngine) -> None:
    """Until the counters that the engines have sent are those at rest."""
    end = time.monotonic() + 30
    while engines.stats()["running"] or engines.stats()["pages_free"] != engines.stats()["pages_total"]:
        assert time.monotonic() < end, engines.stats()
        time.sleep(0.05)


def test_the_killed_one_s_requests_fail_the_others_do_not_and_it_comes_back(two, preparer):
    params = SamplingParams(min_thinking_tokens=1500, max_tokens=1600)
    handles = [two.submit_prepared(preparer.prepare(f"question {i}", params)) for i in range(8)]
    victim = two._replicas.all[0]
    theirs = set(victim.open)
    assert len(theirs) == 4
    os.kill(victim.pid, signal.SIGKILL)
    failed = 0
    for handle in handles:
        try:
            assert len(handle.result(120).outputs[0].token_ids) >= 1500
        except EngineDead as error:
            assert "signal 9" in str(error)
            failed += 1
    assert failed == len(theirs)
    end = time.monotonic() + 60
    while two._replicas.restarts == 0:
        assert time.monotonic() < end
        time.sleep(0.05)
    handles = [two.submit_prepared(preparer.prepare(f"question {i}", SamplingParams(max_tokens=8))) for i in range(8)]
    assert all(handle.result(60).outputs[0].token_ids for handle in handles)


def test_a_model_that_cannot_be_used_is_told_as_one_engine_would(tmp_path, tokenizer):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_bytes((NANO / "tokenizer.json").read_bytes())
    with pytest.raises(InputError, match=r"config\.json"):
        ReplicatedEngine(EngineConfig(model=str(tmp_path)), tokenizer, 2)


def test_gpus_are_shared_out(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-6,7,8")
    shares = [place[1]["CUDA_VISIBLE_DEVICES"] for place in Replicas(EngineConfig(tensor_parallel_size=2), 2)._places]
    assert shares == ["4,5", "GPU-6,7"]
    with pytest.raises(InputError, match="needs 6 GPUs and 5 are visible"):
        Replicas(EngineConfig(tensor_parallel_size=2), 3)
    with pytest.raises(InputError, match="device is cuda:1"):
        Replicas(EngineConfig(device="cuda:1"), 2)


def test_without_a_replica_requests_are_refused():
    async def ask() -> None:
        Replicas(EngineConfig(), 2).submit(None, lambda number: None)

    with pytest.raises(EngineDead, match="no engine runs"):
        asyncio.run(ask())


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_file_over_two_engines_is_the_file_of_one(tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"How many r in raspberry{i}?"}) + "\n" for i in range(12)))
    command = [sys.executable, "-m", "engine.generate", "--input", str(source), "--output", str(output)]
    command += ["--temperature", "1", "--max-tokens", "60", "--data-parallel-size", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, env=environment, capture_output=True)
    with Engine(NANO) as engine:
        alone = engine.generate(
            [f"How many r in raspberry{i}?" for i in range(12)], SamplingParams(temperature=1.0, max_tokens=60)
        )
    assert [one["index"] for one in lines(output)] == list(range(12))
    assert [one["outputs"][0]["token_ids"] for one in lines(output)] == [one.outputs[0].token_ids for one in alone]


@pytest.mark.slow
def test_a_file_over_two_engines_is_the_file_of_one_also_resumed(tmp_path):
    """The first run's engine is killed: what had finished is there, and --resume has the rest."""
    source = tmp_path / "in.jsonl"
    questions = [{"prompt": f"How many r in raspberry{i}?", "params": {"min_thinking_tokens": 400}} for i in range(24)]
    source.write_text("".join(json.dumps(one) + "\n" for one in questions))
    command = [
        sys.executable,
        "-m",
        "engine.generate",
        "--input",
        str(source),
        "--temperature",
        "1",
        "--max-num-seqs",
        "4",
    ]
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, "--output", str(one)], check=True, env=environment, capture_output=True)
    command += ["--output", str(two), "--data-parallel-size", "2"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as run:
        while not (two.exists() and two.read_bytes().count(b"\n") >= 3):
            assert run.poll() is None, run.stderr.read()
            time.sleep(0.01)
        children = [
            c for task in Path(f"/proc/{run.pid}/task").iterdir() for c in (task / "children").read_text().split()
        ]
        engines = [int(c) for c in children if "engine.replicas.worker" in Path(f"/proc/{c}/cmdline").read_text()]
        assert len(engines) == 2
        os.kill(engines[0], signal.SIGKILL)
        said = run.stderr.read()
    assert run.returncode == 1 and "signal 9" in said and "--resume goes on" in said, said
    kept = lines(two)
    assert 3 <= len(kept) < 24
    subprocess.run([*command, "--resume"], check=True, env=environment, capture_output=True)
    answers = [[[each["index"], each["outputs"]] for each in lines(path)] for path in (one, two)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "flags", [["--prompt", "a", "--data-parallel-size", "2"], ["--prompt", "a", "--data-parallel-size", "0"]]
)
def test_flags_that_do_not_fit(flags):
    done = subprocess.run([sys.executable, "-m", "engine.generate", *flags], capture_output=True, text=True)
    assert done.returncode == 2 and "--data-parallel-size" in done.stderr and done.stderr.count("\n") == 1
