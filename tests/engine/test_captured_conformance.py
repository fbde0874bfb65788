"""Rules of budget forcing through the captured step: padded buckets, persistent inputs, the loop one step behind.

The parts where the bookkeeping of a step matters most run always, the rest of the suite with `make test-full`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFORMANCE = ROOT / "tests" / "conformance"
FILES = [f"test_rules_{name}.py" for name in ("budget", "extension", "schedule")]
OTHERS = [path.name for path in sorted(CONFORMANCE.glob("test_*.py")) if path.name not in FILES]


@pytest.mark.timeout(900)
def test_rules_hold_in_captured_steps() -> None:
    passes_captured(FILES)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_rest_of_the_suite_passes_in_captured_steps() -> None:
    passes_captured(OTHERS)


def passes_captured(names: list[str]) -> None:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "S1_TEST_ENGINE": json.dumps({"step_graphs": "on", "overlap": True}),
    }
    files = [f"tests/conformance/{name}" for name in names]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "not test_rule_28"]  # ranks: test_engine.py
    command = [sys.executable, "-m", "pytest", *options, *files]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout and "skipped" not in run.stdout
