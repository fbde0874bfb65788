"""The GPU day: a part that fails, hangs or is absent leaves the others' results; done parts are not run again."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bench import gpu_day
from bench.gpu_day import PARTS, Options, Part, command, run
from bench.record import read

QUIET = Console(quiet=True)


@pytest.fixture
def misbehaving(tmp_path, monkeypatch):
    """Modules that raise, hang and run out of memory, importable by this process and its children."""
    (tmp_path / "part_raises.py").write_text("raise RuntimeError('no such luck')\n")
    (tmp_path / "part_hangs.py").write_text(
        "import subprocess, sys, time\nprint('child', subprocess.Popen(['sleep', '60']).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "part_hungry.py").write_text(
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))\nx = bytearray(2**30)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{gpu_day.record.ROOT}")

    def part(name: str, minutes: float = 1) -> Part:
        return Part(name, f"part_{name}", (), (), minutes)

    return part


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_failures_leave_the_rest_intact(tmp_path, misbehaving):
    # Its own limit suits a free machine; what is tested is that the others' failures leave it alone.
    good = replace(next(part for part in PARTS if part.name == "ceilings"), minutes=10)
    parts = (misbehaving("raises"), misbehaving("hangs", 0.03), misbehaving("hungry"), misbehaving("missing"), good)
    out = tmp_path / "out"
    outcomes = run(Options(out=out, reduced=True, minutes=20), QUIET, parts)
    assert [o.state for o in outcomes] == ["failed", "out of time", "failed", "absent", "done"]
    assert "no such luck" in outcomes[0].why and "MemoryError" in outcomes[2].why
    assert "there is no part_missing" in outcomes[3].why
    child = int((out / "hangs.log").read_text().split()[1])
    deadline = time.monotonic() + 5
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(child), "the hung part's own child still runs"
    line = read(out / "ceilings.jsonl")[0]
    assert line.benchmark == "ceilings" and line.figures["read_GBps"] > 0
    again = run(Options(out=out, reduced=True), QUIET, (good,))
    assert again[0].state == "done before" and len(read(out / "ceilings.jsonl")) == 1


def test_what_does_not_fit_the_minutes_is_left_for_the_next_call(tmp_path, misbehaving):
    outcomes = run(Options(out=tmp_path / "out", reduced=True, minutes=0.01), QUIET, (misbehaving("raises"),))
    assert outcomes[0].state == "not started" and "again" in outcomes[0].why


def test_only_runs_what_is_named(tmp_path):
    assert run(Options(out=tmp_path, reduced=True, only=("kernels",)), QUIET, PARTS[:2]) == []


def test_the_full_form_names_every_part_and_the_peer():
    full = Options(reduced=False, peer_python="py")
    commands = {part.name: command(part, full, Path("o.jsonl")) for part in PARTS}
    assert all(commands.values())
    assert "--resume" in commands["decode"] and "--peer-python" not in commands["decode"]
    peers = commands["peers"]
    assert peers[peers.index("--against") + 1 :][:4] == ["transformers", "vllm", "--peer-python", "py"]
    reduced = {part.name for part in PARTS if command(part, Options(reduced=True), Path("o.jsonl"))}
    assert {"ceilings", "correctness", "decode", "prefill", "client_loop", "host"} <= reduced


def test_every_part_names_a_module_that_takes_its_arguments(tmp_path):
    # the options classes parse what the parts pass, in both forms, without running anything
    import tyro

    from bench import budgets, ceilings, correctness, decode, gemm, host, prefill, train

    options = {
        "bench.budgets": budgets.Options, "bench.ceilings": ceilings.Options, "bench.correctness": correctness.Options,
        "bench.decode": decode.Options, "bench.gemm": gemm.Options, "bench.host": host.Options,
        "bench.prefill": prefill.Options, "bench.train": train.Options,
    }  # fmt: skip
    for part in PARTS:
        for reduced in (False, True):
            built = command(part, Options(reduced=reduced), tmp_path / "o.jsonl")
            if built is not None and part.module in options:
                assert tyro.cli(options[part.module], args=built[3:]).output == tmp_path / "o.jsonl"


@pytest.mark.timeout(900)
def test_the_reduced_day(tmp_path):
    """Under a minute on two free cores; the limit is for busy ones."""
    outcomes = run(Options(out=tmp_path / "out", reduced=True, minutes=14), QUIET)
    assert {o.state for o in outcomes} <= {"done", "absent"}
    assert sum(o.state == "done" for o in outcomes) >= 6
