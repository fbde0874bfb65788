"""The start-up benchmark: what it measures of a process, and how it fails."""

import pytest

from bench.record import read
from bench.startup import Options, main, start
from engine.errors import InputError


def test_a_start_has_its_own_times_and_memory():
    small = start(["-I", "-S", "-c", "import time; print(1, flush=True); time.sleep(0.5)"])
    large = start(["-I", "-S", "-c", "x = bytearray(10**8); x[::4096] = bytes(len(x[::4096])); print(1)"])
    assert 0 < small.first_s <= small.end_s - 0.4
    assert 1 < small.peak_MB < 60, "not the memory of who starts it"
    assert 100 < large.peak_MB < 200


def test_a_start_that_fails_is_told():
    with pytest.raises(InputError, match="ended with 3: oh"):
        start(["-I", "-c", "import sys; print('oh', file=sys.stderr); sys.exit(3)"])


def test_what_is_wrong_is_told_before_anything_starts(tmp_path):
    with pytest.raises(InputError, match="no directory"):
        main(Options(model=(f"name={tmp_path}/none",)))
    with pytest.raises(InputError, match="has no engine/"):
        Options(beside=tmp_path)


@pytest.mark.slow
def test_it_runs(tmp_path):
    """Without a checkpoint, so without torch in what it starts, but for torch itself."""
    main(Options(model=(), rounds=1, output=tmp_path / "record.jsonl"))
    torch, usage = read(tmp_path / "record.jsonl")
    assert (torch.case["start"], usage.case["start"]) == ("import torch", "--help")
    assert usage.figures["peak_MB"] < torch.figures["peak_MB"] / 2
