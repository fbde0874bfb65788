"""The decode benchmark: its arithmetic by hand, and one whole run against transformers on a tiny model."""

import subprocess
import sys
import time
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from rich.console import Console

from bench import decode, record
from bench.checkpoints import checkpoint
from bench.decode import Case, Lane, Options, Timed, figures, prompts
from bench.peers import engine_worker
from bench.peers.worker import Setup, Worker, WorkerFailed
from bench.shapes import SHAPES
from engine import Engine, InputError, SamplingParams
from kernels.limits import H100, Device, Limits


def test_a_step_is_the_difference_of_two_runs():
    """Of a short one and one that is longer by the tokens; taken again where noise made the short run the longer."""

    def step(*seconds: float) -> float:
        left = iter(seconds)
        peer = SimpleNamespace(name="vllm", run=lambda ids, tokens: next(left))
        return Lane(cast(Worker, peer), "vllm").run(Case(1, 8), [[1]], 100).median

    assert step(0.5, 2.5) == step(2.0, 1.0, 2.0, 2.0, 0.5, 2.5) == pytest.approx(0.02)
    with pytest.raises(ValueError, match="raise --tokens"):
        step(*[2.0, 1.0] * 3)


def test_figures_by_hand():
    # tiny: 2 layers of (64 + 2 x 32) x 64 + 64 x 64 + 3 x 192 x 64, and a head of 1024 x 64, in 2 bytes
    limits = Limits(SHAPES["tiny"], Device("cpu", 1e9, 1e12, 1e10))
    weights = 2 * (2 * (8192 + 4096 + 36864) + 65536 + 2 * (2 * 64 + 128) + 64)
    needed = weights + 4 * 118 * (2 * 2 * 2 * 16 * 2)
    values = figures(Case(batch=4, context=100), [Timed((0.01,), keys=4 * 118)], limits)
    assert values["step_ms"] == 10 and values["tok_s_user"] == 100 and values["tok_s_total"] == 400
    assert values["GBps"] == pytest.approx(needed / 0.01 / 1e9)
    assert values["bandwidth_share"] == pytest.approx(needed / 1e7)
    assert values["limit_ms"] == pytest.approx(needed / 1e6)


def test_ratio_is_the_median_of_paired_rounds():
    rounds, limits = [Timed((1.0, 1.0, 9.0), 3), Timed((2.0,), 5)], Limits(SHAPES["tiny"], H100)
    ours, medians = figures(Case(1, 1), rounds, limits), [one.median for one in rounds]
    assert medians == [1.0, 2.0] and ours["step_ms"] == 1500 and "ratio" not in ours
    assert ours["GBps"] == (limits.streamed_bytes + 4 * limits.kv_bytes_per_token) / 1.5 / 1e9, "keys of both rounds"
    assert figures(Case(1, 1), [Timed((2.0,), 4), Timed((6.0,), 4)], limits, medians)["ratio"] == 2.5


def test_a_cell_costs_one_prefill(tmp_path):
    """Whatever the number of rounds: their steps are timed where all prompts decode, and pages of prompts are kept."""
    case, steps = Case(3, 200), 10
    ids = prompts(case, SHAPES["tiny"].vocab_size - 3, [])
    job = {"prompts": ids, "window": steps, "ahead": case.ahead}
    with Engine(
        checkpoint(tmp_path, SHAPES["tiny"]),
        device="cpu",
        max_num_seqs=3,
        max_model_len=case.most_tokens(steps),
        max_num_batched_tokens=64,
    ) as engine:
        prefilled = []
        for _ in range(3):
            before = engine.stats()["prefill_tokens"]
            answer = engine_worker.window(engine, job, [{"thinking_format": "none"}] * 3)
            prefilled.append(engine.stats()["prefill_tokens"] - before)
            assert len(answer["steps"]) == steps and min(answer["steps"]) > 0
            # in the last prompt's first step it sees itself and one token; the others have gone ahead by some steps
            assert 3 * 201 <= answer["keys"] <= 3 * case.most_tokens(steps)
    page = engine.config.page_size
    assert prefilled[0] == 600 and max(prefilled[1:]) <= 3 * page
    assert answer["keys"] == pytest.approx(3 * (200 + steps / 2), abs=2 * 32), "no prompt far ahead any more"


def test_a_gpu_has_one_engine_at_a_time_which_captures_before_it_is_timed(tmp_path):
    engines = ("engine", "transformers", "vllm")
    assert decode.together(engines, torch.device("cuda", 0)) == [("engine",), ("transformers",), ("vllm",)]
    assert decode.together(engines, torch.device("cpu")) == [engines]
    here = asdict(setup_of(tmp_path))
    assert [engine_worker.config_of(here | {"device": name})["capture_at_start"] for name in ("cuda", "cpu")] == [1, 0]


def test_what_is_timed_was_run_before():
    """Every lane once, with the cell's own prompts, before the first round of any: no compile or capture is timed."""
    case, runs = Case(2, 30), []

    class Noted:
        def __init__(self, name: str) -> None:
            self.name = name

        def window(self, ids, steps, ahead, **extra):
            runs.append((self.name, ids, steps))
            return [0.1] * steps, 1.0

        def run(self, ids, tokens):
            runs.append((self.name, ids, tokens))
            return tokens / 10

    ids = prompts(case, 50, [])
    lanes = [
        Lane(cast(Worker, Noted("engine")), "engine"),
        Lane(cast(Worker, Noted("engine")), "engine", budget=4),
        Lane(cast(Worker, Noted("vllm")), "vllm"),
    ]
    decode.measure(case, lanes, ids, tokens=20, rounds=2)
    short, long = decode.SHORT, decode.SHORT + 20
    assert runs[:4] == [("engine", ids, short), ("engine", ids, short), ("vllm", ids, short), ("vllm", ids, long)]
    assert [steps for name, _, steps in runs[4:] if name == "engine"] == [20] * 4


def test_prompts_end_in_the_opener():
    made = prompts(Case(3, 10), 50, [60, 61])
    assert [len(ids) for ids in made] == [10, 10, 10] and all(ids[-2:] == [60, 61] for ids in made)
    assert made == prompts(Case(3, 10), 50, [60, 61]) and made[0] != made[1]


@pytest.mark.parametrize("shape", ["tiny", "40m"])
def test_random_checkpoint_is_what_the_shape_says(tmp_path, shape):
    folder = checkpoint(tmp_path, SHAPES[shape])
    assert checkpoint(tmp_path, SHAPES[shape]) == folder
    with Engine(folder, device="cpu", max_num_seqs=1, max_model_len=64) as engine:
        assert engine.tokenizer.size == SHAPES[shape].vocab_size
        text = "<|im_start|>think 2 + 2"
        assert engine.tokenizer.decode(engine.tokenizer.encode(text, specials=True)) == text
        done = engine.generate([[1, 2, 3]], SamplingParams(max_tokens=3, thinking_format="none", ignore_eos=True))
        assert len(done[0].outputs[0].token_ids) == 3


def test_bad_options_are_refused():
    with pytest.raises(InputError, match="--peer-python"):
        Options(against=("vllm",))
    with pytest.raises(InputError, match="--peer-node"):
        Options(against=("llamacpp",), peer_node=Path("here"))
    with pytest.raises(InputError, match="--output"):
        Options(resume=True)
    with pytest.raises(InputError, match="start at 1"):
        Options(batch=(0,))
    with pytest.raises(InputError, match="'8,1024'; give BATCHxCONTEXT"):
        Options(cells=("1x8", "8,1024"))


def test_cells_are_run_in_their_order():
    assert Options(cells=("64x512", "1x1024")).cases == [Case(64, 512), Case(1, 1024)]
    assert Options(batch=(1, 2), context=(3, 4)).cases == [Case(1, 3), Case(1, 4), Case(2, 3), Case(2, 4)]


@pytest.mark.parametrize("peers", [(), pytest.param(("transformers", "unquantized"), marks=pytest.mark.slow)])
def test_a_run_against_its_peers(tmp_path, peers):
    """This engine in 8 bits, with budgets, and in 16, which is a lane of its own judged by its own bytes; transformers.
    What the output has already is not measured again."""
    output, told = tmp_path / "out.jsonl", Console(file=StringIO(), width=200)
    options = Options(
        shape="tiny",
        dtype="float32",
        batch=(2,),
        context=(16,),
        budget=(8,),
        tokens=16,
        rounds=1,
        quantization="int8",
        against=peers,
        device="cpu",
        threads=1,
        cache=tmp_path,
        output=output,
    )
    assert decode.Run(options, told).all()
    lines = record.read(output)
    lanes = [(line.case["engine"], line.case["budget"], line.case.get("quantization")) for line in lines]
    ours = "s1-engine"
    assert lanes == [
        (ours, None, "int8"),
        (ours, 8, "int8"),
        *([("transformers", None, None), (f"{ours}, unquantized", None, None)] if peers else []),
    ]
    eight, budget, *others = (line.figures for line in lines)
    assert "ratio" not in eight and all(figures["ratio"] > 0 for figures in others)
    assert eight["step_ms"] > 0 and budget["step_ms"] > 0 and ("transformers" in lines[0].versions or not peers)
    for wide in others[1:]:
        assert wide["GBps"] * wide["step_ms"] > 2 * eight["GBps"] * eight["step_ms"]
    decode.Run(replace(options, resume=True), told).all()
    assert "in the output already" in told.file.getvalue() and record.read(output) == lines


def setup_of(folder: Path) -> Setup:
    return Setup(
        checkpoint=str(folder), dtype="float32", device="cpu", threads=1, max_model_len=64, max_num_seqs=2, dummy=False
    )


def test_a_worker_that_cannot_start_says_why(tmp_path):
    with pytest.raises(WorkerFailed, match=r"engine ended; its last words: .*absent"):
        Worker("engine_worker.py", setup_of(tmp_path / "absent"), tmp_path / "log")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the state of a process from /proc")
def test_a_worker_is_stopped_between_its_turns_and_killed_where_it_does_not_answer(tmp_path):
    """Stopped, so that one that polls or spins takes nothing from the others."""

    def stopped() -> bool:
        return Path(f"/proc/{worker._process.pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"

    with Worker("engine_worker.py", setup_of(checkpoint(tmp_path, SHAPES["tiny"])), tmp_path / "log") as worker:
        for _ in range(2):
            assert worker.run([[1, 2]], 5) > 0
            deadline = time.monotonic() + 20  # a signal arrives when it arrives
            while not stopped():
                assert time.monotonic() < deadline
                time.sleep(0.01)
        with pytest.raises(WorkerFailed, match="no answer within 0 s"):
            worker.run([[1, 2]], 50, seconds=0)
        assert worker._process.poll() is not None


HOLDS = """
import sys
from pathlib import Path
from bench.peers.worker import Setup, Worker
setup = Setup(checkpoint=sys.argv[1], dtype="float32", device="cpu", threads=1, max_model_len=32000,
              max_num_seqs=1, dummy=False)
worker = Worker("engine_worker.py", setup, Path(sys.argv[2]))
print(worker._process.pid, flush=True)
worker.run([[1, 2]], 30000)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux ends it")
def test_a_worker_ends_with_a_benchmark_that_is_killed(tmp_path):
    """At once, although it has seconds of work and does not see that nobody waits for it."""
    command = [sys.executable, "-c", HOLDS, str(checkpoint(tmp_path, SHAPES["tiny"])), str(tmp_path / "log")]
    holder = subprocess.Popen(command, cwd=record.ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    worker = Path(f"/proc/{int(holder.stdout.readline())}/stat")
    time.sleep(0.5)
    assert worker.exists()
    holder.kill()
    holder.communicate()
    deadline = time.monotonic() + 4
    while worker.exists() and worker.read_text().rsplit(")", 1)[1].split()[0] != "Z":
        assert time.monotonic() < deadline, "it would hold the card"
        time.sleep(0.05)
