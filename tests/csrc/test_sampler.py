"""Draws of the C++ sampler against the definition: the same filters, the same noise."""

import itertools

import pytest
import torch
from torch import Tensor

from kernels.native.step import sample as native_sample
from kernels.sampler import Real, SamplingNeeds, SamplingTables, Whole, gumbel, sample_reference
from kernels.thinking import MachineTables, Param, Phase, State

ROWS = 8
FLAGS = [f for f in itertools.product((False, True), repeat=3) if f[0] or not f[1]]


def make_tables(vocab: int) -> tuple[SamplingTables, MachineTables]:
    """Greedy, plain, top-k, top-p, min-p and mixtures; some rows may not draw EOS yet; two triggers each."""
    real, whole = torch.ones(ROWS, len(Real)), torch.zeros(ROWS, len(Whole), dtype=torch.int32)
    real[:, Real.TEMPERATURE] = torch.tensor([0, 1, 0.7, 0.5, 1, 1.3, 0, 1.0])
    real[:, Real.TOP_P] = torch.tensor([1, 0.9, 1, 0.95, 0.5, 1, 1, 0.3])
    real[:, Real.MIN_P] = torch.tensor([0, 0, 0, 0.05, 0, 0.1, 0, 0])
    whole[:, Whole.TOP_K] = torch.tensor([0, 0, 20, 50, 0, 0, 1, 3], dtype=torch.int32)
    whole[:, 1:] = torch.randint(-(2**31), 2**31 - 1, (ROWS, 3), dtype=torch.int32)

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.int32)

    state, params = zeros(ROWS, len(State)), zeros(ROWS, len(Param))
    state[:, State.LENGTH] = torch.arange(ROWS) * 17
    state[1::2, State.PHASE], state[1::2, State.CLOSED] = Phase.ANSWER, 1
    params[::4, Param.MIN_TOKENS], params[1::4, Param.MIN_ANSWER] = 9, 2
    machine = MachineTables(
        state,
        params,
        zeros(ROWS, 4, 3),
        torch.randint(-1, vocab, (ROWS, 2), dtype=torch.int32),
        zeros(ROWS, 2),
        zeros(ROWS, 1),
        zeros(ROWS, 4),
        torch.tensor([3, vocab - 9], dtype=torch.int32),
        torch.zeros(vocab, dtype=torch.uint8),
    )
    return SamplingTables(real, whole), machine


@pytest.mark.parametrize("noise, filters, masked", FLAGS)
@pytest.mark.parametrize("vocab", [61, 4500])
def test_equals_the_definition(ops, noise: bool, filters: bool, masked: bool, vocab: int):
    needs = SamplingNeeds(noise=noise, filters=filters, masked=masked)
    for seed in range(12):
        torch.manual_seed(seed)
        tables, machine = make_tables(vocab)
        slots, logits = torch.randperm(ROWS), torch.randn(ROWS, vocab + 3) * (1 + seed)
        rows = torch.arange(0, ROWS, 2)
        logits[rows, machine.trigger_last[slots[rows], 0].clamp(min=0).long()] = 20.0  # draws that the mask replaces
        if seed % 3 == 0:
            logits[seed % ROWS, seed] = torch.nan
            logits[(seed + 1) % ROWS] = -torch.inf
        wanted = sample_reference(logits.clone(), tables, machine, slots, vocab, needs)
        found = native_sample(logits.clone(), tables, machine, slots, vocab, needs, ops.sample)
        good = ~wanted.bad
        assert torch.equal(found.bad, wanted.bad)
        assert torch.equal(found.draw[good], wanted.draw[good])
        assert torch.equal(found.masked[good], wanted.masked[good])


def test_nothing_left_once_triggers_are_masked(ops):
    tables, machine = make_tables(61)
    machine.params.zero_()
    machine.trigger_last[:] = 7
    logits = torch.full((ROWS, 61), -torch.inf)
    logits[:, 7] = 1.0
    needs = SamplingNeeds(noise=True, filters=True, masked=True)
    found = native_sample(logits, tables, machine, torch.arange(ROWS), 61, needs, ops.sample)
    assert found.draw.tolist() == found.masked.tolist() == [7] * ROWS
    assert not found.bad.any()


def test_the_noise_of_a_token_is_that_of_the_definition(ops):
    """Equal logits: the draw is the token with the most noise, and the runner-up the next once that is excluded."""
    tables, machine = make_tables(30000)
    machine.params.zero_()
    tables.real[:] = torch.tensor([1, 1, 0, 1, 0, 0.0])
    noise = gumbel(tables.whole[:, Whole.SEED_LOW :], machine.state[:, State.LENGTH], 30000)
    best = noise.topk(2, 1).indices
    machine.trigger_last[:, 0] = best[:, 0]
    machine.trigger_last[:, 1] = -1
    machine.eos_ids.fill_(-1)
    needs = SamplingNeeds(noise=True, masked=True)
    found = native_sample(torch.zeros(ROWS, 30000), tables, machine, torch.arange(ROWS), 30000, needs, ops.sample)
    assert torch.equal(found.draw, best[:, 0])
    assert torch.equal(found.masked, best[:, 1])


def test_draws_follow_the_softmax(ops):
    """40,000 draws of five tokens at temperature 0.8 against their probabilities: chi-square, p = 1e-4."""
    count, z = 40_000, torch.tensor([1.0, 0.2, -0.5, 2.0, 0.0])
    tables, machine = make_tables(5)
    tables = SamplingTables(
        torch.tensor([[0.8, 1, 0, 1, 0, 0]]).repeat(count, 1), torch.zeros(count, len(Whole), dtype=torch.int32)
    )
    tables.whole[:, Whole.SAMPLE] = torch.arange(count, dtype=torch.int32)
    machine = MachineTables(
        machine.state[:1].repeat(count, 1),
        machine.params[:1].repeat(count, 1) * 0,
        machine.strings[:1],
        torch.full((count, 1), -1, dtype=torch.int32),
        machine.trigger_lead,
        machine.stop_ids,
        machine.history,
        torch.full((1,), -1, dtype=torch.int32),
        machine.traits,
    )
    found = native_sample(
        z.repeat(count, 1), tables, machine, torch.arange(count), 5, SamplingNeeds(noise=True), ops.sample
    )
    wanted = torch.softmax(z / 0.8, 0) * count
    chi = ((torch.bincount(found.draw, minlength=5) - wanted) ** 2 / wanted).sum()
    assert chi < 23.5
