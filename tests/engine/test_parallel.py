"""Two real processes over Gloo: equal results, and no rank outlives another."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import InputError
from engine.model.config import ModelConfig
from engine.model.shard import Shard
from engine.ranks.group import Group, from_env
from engine.ranks.spawn import spawn_ranks
from tests.checkpoints import write_random_checkpoint
from tests.engine.ranks import decoder_logits, everything_worker
from tests.engine.shapes import LLAMA, LLAMA3, QWEN3
from tests.rounding import decoder_roundings, likely

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
TORCHRUN_COMMAND = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
DEADLINE_S = 10


def test_group_of_one_is_the_identity() -> None:
    group = Group.single(torch.device("cpu"))
    x = torch.randn(3, 5)
    assert group.all_reduce(x) is x and group.all_gather_last_dim(x) is x
    assert group.broadcast_bytes(b"data") == b"data"
    group.barrier()
    group.close()
    with pytest.raises(InputError, match="torn"):
        group.agree(InputError("torn"))


SHAPES: list[dict[str, Any]] = [
    {"heads": 4, "kv_heads": 1, "vocab": 333},
    {"heads": 14, "kv_heads": 2, "hidden": 112, "tied": True, "vocab": 331},
    {"shards": 3, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    {"architecture": QWEN3, "heads": 6, "kv_heads": 2, "head_dim": 16, "vocab": 333},
    {"architecture": LLAMA, "heads": 4, "kv_heads": 1, "rope_scaling": LLAMA3, "tied": True, "vocab": 331},
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[tuple[Path, str]], list[dict[str, Any]]]:
    """The cases that two ranks ran, and what each of them saw of these and of the collectives."""
    folder = tmp_path_factory.mktemp("ranks")
    directories = [write_random_checkpoint(folder / str(i), **shape) for i, shape in enumerate(SHAPES)]
    cases = [(directory, "auto") for directory in directories] + [(directories[0], "dummy")]
    torn = write_random_checkpoint(folder / "torn")
    (torn / "model.safetensors").unlink()
    group = spawn_ranks(2, everything_worker, (cases, torn, folder))
    everything_worker(group, cases, torn, folder)
    group.close()
    return cases, [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def test_collectives(ranks: tuple[Any, list[dict[str, Any]]]) -> None:
    rows = torch.arange(6.0).view(3, 2)
    for results in ranks[1]:
        assert torch.equal(results["sum"], 2 * rows + 100)
        assert torch.equal(results["bf16"], (2 * rows + 100).bfloat16())
        assert torch.equal(results["gathered"], torch.cat((rows, rows + 100), dim=-1))
        assert results["bytes"] == ["plan", "", "x" * 70_000]
        assert results["agreed"] == "shard 1 is torn"


def test_two_ranks_equal_one(ranks: tuple[list[tuple[Path, str]], list[dict[str, Any]]]) -> None:
    cases, seen = ranks
    pairs = zip(*(results["logits"] for results in seen), strict=True)
    for (directory, load_format), (first, second) in zip(cases, pairs, strict=True):
        single = decoder_logits(Group.single(torch.device("cpu")), directory, load_format)
        for one, rank0, rank1 in zip(single, first, second, strict=True):
            config = ModelConfig.load(directory)
            assert rank0.shape[-1] == config.vocab_size
            assert torch.equal(rank0, rank1), "ranks must sample from identical logits"
            assert one.std() > 0.001
            bound = 2 * likely(decoder_roundings(config, len(one))) * one.abs().max()
            torch.testing.assert_close(rank0, one, atol=float(bound), rtol=0)


def test_a_checkpoint_error_reaches_all_ranks(ranks: tuple[Any, list[dict[str, Any]]]) -> None:
    assert all("holds no safetensors file" in results["torn"] for results in ranks[1])


SPAWN = """
import multiprocessing, time
from engine.ranks.spawn import spawn_ranks
from tests.engine.ranks import waiting_worker
if __name__ == "__main__":
    group = spawn_ranks(2, waiting_worker)
    print(multiprocessing.active_children()[0].pid, flush=True)
    time.sleep(60)
"""

TORCHRUN = """
import os, sys, time
from engine.ranks.group import from_env
group = from_env("cpu")
os.write(1, f"{group.rank} {os.getpid()}\\n".encode())  # at once: both ranks write to one pipe
time.sleep(60) if group.rank == 0 else group.broadcast_bytes(None)
"""


def start_pair(tmp_path: Path) -> tuple[subprocess.Popen[str], int]:
    """A process that is rank 0 of two and sleeps; its rank 1 waits for a command."""
    script = tmp_path / "launch.py"
    script.write_text(SPAWN)
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.strip(), process.communicate()[1]
    return process, int(line)


def wait_gone(pid: int) -> float:
    """Seconds until no such process runs (a zombie counts as gone)."""
    start = time.monotonic()
    while time.monotonic() - start < DEADLINE_S:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            break
        if state == "Z":
            break
        time.sleep(0.05)
    return time.monotonic() - start


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc to see whether a process runs")
def test_rank_1_dies_and_rank_0_ends(tmp_path: Path) -> None:
    process, child = start_pair(tmp_path)
    os.kill(child, signal.SIGKILL)
    start = time.monotonic()
    error = process.communicate(timeout=DEADLINE_S)[1]
    assert time.monotonic() - start < DEADLINE_S
    assert process.returncode == 1
    assert f"rank 1 (process {child}) was killed by SIGKILL; all ranks end here" in error


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc to see whether a process runs")
def test_rank_0_dies_and_rank_1_ends(tmp_path: Path) -> None:
    process, child = start_pair(tmp_path)
    process.kill()
    assert wait_gone(child) < DEADLINE_S
    error = process.communicate(timeout=DEADLINE_S)[1]
    assert "rank 1" in error


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc to see whether a process runs")
def test_a_rank_of_torchrun_dies_and_the_other_ends(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(TORCHRUN)
    process = subprocess.Popen(
        [*TORCHRUN_COMMAND, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stdout is not None
    lines = [process.stdout.readline().split() for _ in range(2)]
    assert all(lines), process.communicate()[1]
    pids = {int(rank): int(pid) for rank, pid in lines}
    os.kill(pids[1], signal.SIGKILL)
    assert wait_gone(pids[0]) < DEADLINE_S
    error = process.communicate(timeout=DEADLINE_S)[1]
    assert process.returncode == 1
    assert f"Signal 9 (SIGKILL) received by PID {pids[1]}" in error


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        from pathlib import Path
        from engine.ranks.group import from_env
        from tests.engine.ranks import everything_worker
        group = from_env("cpu")
        everything_worker(group, [], Path("/nowhere"), Path({str(tmp_path)!r}))
        group.close()
        """)
    )
    command = [*TORCHRUN_COMMAND, str(script)]
    run = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    for rank in range(2):
        assert torch.load(tmp_path / f"rank{rank}.pt")["sum"][0].tolist() == [100, 102]


def test_torchrun_variables_are_named_when_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="RANK is not set; start the ranks with torchrun"):
        from_env("cpu")


@pytest.mark.parametrize(("heads", "kv_heads", "intermediate"), [(6, 2, 96), (4, 3, 96), (4, 4, 90)])
def test_shapes_that_do_not_split_are_refused(heads: int, kv_heads: int, intermediate: int) -> None:
    config = ModelConfig.parse(
        {
            "architectures": ["Qwen2ForCausalLM"],
            "hidden_size": 96,
            "num_hidden_layers": 1,
            "vocab_size": 10,
            "num_attention_heads": heads * kv_heads if heads % kv_heads else heads,
            "num_key_value_heads": kv_heads,
            "intermediate_size": intermediate,
            "max_position_embeddings": 64,
            "head_dim": 8,
        },
        "config.json",
    )
    with pytest.raises(InputError, match=rf"tensor_parallel_size 4 .*{intermediate}.*{kv_heads} KV heads"):
        Shard.of(config, 0, 4)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6, 8, 12, 24])
def test_shards_cover_the_model_once(size: int) -> None:
    config = ModelConfig.parse(
        {
            "architectures": ["Qwen2ForCausalLM"],
            "hidden_size": 96,
            "num_hidden_layers": 1,
            "vocab_size": 331,
            "num_attention_heads": 24,
            "num_key_value_heads": 6 if size != 4 and size != 8 else 4,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
        },
        "config.json",
    )
    shards = [Shard.of(config, rank, size) for rank in range(size)]
    queries = [s.head_start + i for s in shards for i in range(s.num_heads)]
    assert queries == list(range(config.num_heads))
    vocabulary = [s.vocab_start + i for s in shards for i in range(s.vocab_rows)]
    assert vocabulary == list(range(config.vocab_size))
    per_kv = config.num_heads // config.num_kv_heads
    for s in shards:
        wanted = {head // per_kv for head in range(s.head_start, s.head_start + s.num_heads)}
        assert wanted == set(range(s.kv_head_start, s.kv_head_start + s.num_kv_heads))
