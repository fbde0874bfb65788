"""Examples that people start from: they load, and they run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.evaluation import commands, grid
from bench.evaluation.options import RunOptions
from curate.config import load_config as load_curation
from tests.serve.running_server import RunningServer
from train.config import load_config as load_training

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True)


def test_every_configuration_loads(monkeypatch):
    monkeypatch.chdir(ROOT / "models")  # `engine:model` is any folder; none of these opens it
    readers = {"curate_own": load_curation, "sft_own": load_training}
    found = {file.stem: readers.get(file.stem, grid.load)(file) for file in sorted(EXAMPLES.glob("*.yaml"))}
    assert found.keys() == {"compare_endpoints", "curate_own", "evaluate_own", "sft_own"}


def test_thinking_is_steered_while_it_runs(tmp_path):
    done = run(tmp_path, str(EXAMPLES / "live_control.py"))
    assert done.returncode == 0, done.stderr
    ends = [line.rpartition("ended: ")[2] for line in done.stdout.splitlines() if "ended: " in line]
    assert ends == ["natural", "client", "budget", "natural"]
    thought = [line for line in done.stdout.splitlines() if "thinking tokens" in line]
    assert thought[2].startswith("40 thinking tokens") and "1 extensions" in thought[3]


def test_samples_vote(tmp_path):
    done = run(tmp_path, str(EXAMPLES / "many_samples.py"))
    assert done.returncode == 0, done.stderr
    blocks = done.stdout.split("budget ")[1:]
    assert len(blocks) == 2
    for block in blocks:
        votes = [int(line.split()[0]) for line in block.splitlines() if " x " in line]
        assert votes == sorted(votes, reverse=True) and 0 < sum(votes) <= 16


def test_flags_put_a_grid_on_an_endpoint():
    asked = RunOptions(EXAMPLES / "compare_endpoints.yaml", endpoint="http://127.0.0.1:1/v1", model="theirs")
    made = commands.with_overrides(grid.load(EXAMPLES / "compare_endpoints.yaml"), asked)
    assert made.endpoint == grid.Endpoint(url="http://127.0.0.1:1/v1", model="theirs", thinking_fields=False)


@pytest.mark.slow
def test_two_engines_answer_the_same_questions(tmp_path):
    """This engine in the process and behind its server: equal answers, so no difference."""
    (tmp_path / "model").symlink_to(ROOT / "models/s1-nano")
    rows = [
        {"question": f"Start with {i}.\nAdd {i}.\nWhat is the result?", "answer": str(2 * i)} for i in range(20, 24)
    ]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluate = ("-m", "bench.evaluate", str(EXAMPLES / "compare_endpoints.yaml"))
    ours = run(tmp_path, *evaluate, "--model", "model", "--dtype", "float32", "--device", "cpu", "--out", "ours")
    assert ours.returncode == 0, ours.stderr
    with RunningServer("--dtype", "float32") as server:
        at = ("--endpoint", f"{server.url}/v1", "--model", "s1-nano")
        theirs = run(tmp_path, *evaluate, *at, "--out", "theirs")
    assert theirs.returncode == 0, theirs.stderr
    told = run(tmp_path, "-m", "bench.evaluate", "compare", "ours", "theirs").stdout
    assert "| own | no opener | 4 | " in told and "| +0.0 | +0.0 to +0.0 | 1 |" in told
