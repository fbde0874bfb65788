"""The device's part of a step behind the decoder: the sampler and the thinking machine, on the CPU."""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from engine.prepare import Preparer
from engine.request import SamplingParams
from engine.schedule.pages import PagePool
from engine.schedule.scheduler import Scheduler
from engine.schedule.sequence import Admission
from engine.step.slots import SlotTables, needs_of, sampling_needs
from engine.text.tokenizer import Tokenizer
from kernels.sampler import sample
from kernels.thinking import thinking_step

VOCAB = 32000


def seated(tokenizer: Tokenizer, batch: int, params: SamplingParams) -> tuple[SlotTables, torch.Tensor, int]:
    """Tables with `batch` requests in them, their slots and needs."""
    preparer = Preparer(tokenizer, "s1", 512)
    opener = tokenizer.encode("<|im_start|>think", specials=True)
    tables = SlotTables(
        torch.device("cpu"), batch, 512, 16, VOCAB, tokenizer.eos_token_ids, torch.zeros(VOCAB, dtype=torch.bool)
    )
    scheduler = Scheduler(PagePool(batch * 32 + 1, 16), batch, 8192)
    for i in range(batch):
        prepared = preparer.prepare([5] * 8 + opener, params)
        scheduler.add(Admission(i, prepared, i))
    bits, step = 0, scheduler.schedule(drained=True)
    assert step is not None
    for sequence in step.admitted:
        sequence.needs = needs_of(sequence)
        bits |= sequence.needs
        tables.seat(sequence)
    return tables, torch.arange(batch), bits


CASES = {
    "greedy": SamplingParams(),
    "greedy_masked": SamplingParams(thinking_extensions=2),
    "temperature": SamplingParams(temperature=0.7, seed=1),
    "temperature_masked": SamplingParams(temperature=0.7, seed=1, thinking_extensions=2),
    "top_p": SamplingParams(temperature=0.7, top_p=0.95, seed=1),
}


@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("case", CASES)
def test_sampler(benchmark: BenchmarkFixture, tokenizer: Tokenizer, case: str, batch: int) -> None:
    """Both draws for every row of [batch, 32000] logits."""
    tables, slots, bits = seated(tokenizer, batch, CASES[case])
    logits = torch.randn(batch, VOCAB, generator=torch.Generator().manual_seed(0))
    needs, machine = sampling_needs(bits), tables.for_step(bits).machine
    draws = benchmark(lambda: sample(logits.clone(), tables.sampling, machine, slots, VOCAB, needs))
    assert draws.draw.shape == (batch,) and not draws.bad.any()


@pytest.mark.parametrize("batch", [1, 128])
def test_machine(benchmark: BenchmarkFixture, tokenizer: Tokenizer, batch: int) -> None:
    """One step of the thinking machine for every row; thinking has a budget that is far away."""
    tables, slots, bits = seated(tokenizer, batch, SamplingParams(thinking_token_budget=400, thinking_extensions=2))
    machine = tables.for_step(bits).machine
    draw, bad = torch.full((batch,), 9), torch.zeros(batch, dtype=torch.bool)
    start = machine.state.clone()

    def step() -> torch.Tensor:
        machine.state.copy_(start)  # the same step every time
        return thinking_step(machine, slots, draw, draw, bad)

    records = benchmark(step)
    assert (records[:, 0] == 9).all()
