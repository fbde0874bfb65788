"""What a machine can do: measured here, or for a GPU by a process that leaves nothing on the card."""

from dataclasses import replace

import pytest
import torch

from bench import ceilings, record, stand_in

GPU = torch.device("cuda")


def test_ceilings_are_positive_and_judge_a_cpu_by_reads():
    found = ceilings.measure_here(torch.device("cpu"), buffer_bytes=2**22, matmul_size=64)
    assert min(found.copy, found.read, found.flops) > 0 and found.fp8_flops is None
    assert found.limits_of(torch.device("cpu")).bandwidth == found.read


@pytest.fixture
def elsewhere(monkeypatch):
    """A card that is stood in for; measuring in this process fails."""
    monkeypatch.setenv(stand_in.VARIABLE, "H100")
    monkeypatch.setattr(ceilings, "measure_here", None)


@pytest.mark.slow
def test_a_gpu_is_measured_by_another_process(elsewhere):
    """With its 4 GiB and a CUDA context of its own, which are gone when it ends."""
    found = ceilings.measure(GPU)
    assert min(found.copy, found.read, found.flops) > 0
    assert found.limits_of(GPU).bandwidth == found.copy


def test_what_was_measured_today_is_not_measured_again(elsewhere, tmp_path, monkeypatch):
    figures = {"copy_GBps": 3.0, "read_GBps": 4.0, "matmul_TFLOPs": 5.0, "fp8_TFLOPs": None, "memory_GB": 80.0}
    line = record.Machine.read(GPU).record("ceilings", {}, figures)
    results = tmp_path / "results.jsonl"
    for one in (line, replace(line, device="another card", figures=figures | {"copy_GBps": 9.0})):
        record.append(results, one)
    monkeypatch.setenv(ceilings.FILE, str(results))
    assert ceilings.measure(GPU) == ceilings.Ceilings(3e9, 4e9, 5e12, None, 80e9)
