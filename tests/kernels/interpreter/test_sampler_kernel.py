"""The sampling kernels against the definition: equal draws, row by row."""

import itertools

import pytest
import torch

from kernels.sampler import Draws, Real, SamplingNeeds, SamplingTables, Whole, gumbel, sample_reference
from kernels.sampler_triton import sample_triton
from kernels.thinking import MachineTables, Param, Phase, State

SLOTS, VOCAB = 8, 4500


def make_tables(device: torch.device, vocab: int = VOCAB) -> tuple[SamplingTables, MachineTables]:
    """Eight slots: greedy, plain, top-k, top-p, min-p and mixtures, some of which may not draw EOS yet."""
    real = torch.zeros(SLOTS, len(Real), device=device)
    whole = torch.zeros(SLOTS, len(Whole), dtype=torch.int32, device=device)
    real[:, Real.TEMPERATURE] = torch.tensor([0, 1, 0.7, 0.5, 1, 1.3, 0, 1.0])
    real[:, Real.TOP_P] = torch.tensor([1, 0.9, 1, 0.95, 0.5, 1, 1, 0.3])
    real[:, Real.MIN_P] = torch.tensor([0, 0, 0, 0.05, 0, 0.1, 0, 0])
    real[:, Real.REPETITION], real[:, Real.PRESENCE], real[:, Real.FREQUENCY] = 1.2, 0.3, 0.2
    whole[:, Whole.TOP_K] = torch.tensor([0, 0, 20, 50, 0, 0, 1, 3], dtype=torch.int32)
    whole[:, 1:] = torch.randint(-(2**31), 2**31 - 1, (SLOTS, 3), dtype=torch.int32)
    counts = torch.randint(0, 3, (SLOTS, vocab), dtype=torch.int32, device=device)
    in_prompt = torch.rand(SLOTS, vocab, device=device) < 0.1
    sampling = SamplingTables(real, whole, torch.randn(SLOTS, vocab, device=device), counts * in_prompt, in_prompt)
    state = torch.zeros(SLOTS, len(State), dtype=torch.int32, device=device)
    state[:, State.LENGTH] = torch.arange(SLOTS) * 17
    state[1::2, State.PHASE], state[1::2, State.CLOSED] = Phase.ANSWER, 1
    params = torch.zeros(SLOTS, len(Param), dtype=torch.int32, device=device)
    params[::4, Param.MIN_TOKENS], params[1::4, Param.MIN_ANSWER] = 9, 2

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.int32, device=device)

    last = torch.randint(-1, vocab, (SLOTS, 2), dtype=torch.int32, device=device)
    machine = MachineTables(
        state,
        params,
        zeros(SLOTS, 4, 3),
        last,
        zeros(SLOTS, 2),
        zeros(SLOTS, 1),
        zeros(SLOTS, 4),
        torch.tensor([3, vocab - 9], dtype=torch.int32, device=device),
        torch.zeros(vocab, dtype=torch.uint8),
    )
    return sampling, machine


def compare(logits: torch.Tensor, tables, machine, slots, vocab: int, needs: SamplingNeeds, near: float) -> Draws:
    """The kernel's draws, which are the definition's."""
    got = sample_triton(logits.clone(), tables, machine, slots, vocab, needs, near=near)
    want = sample_reference(logits.clone(), tables, machine, slots, vocab, needs)
    assert torch.equal(got.bad, want.bad)
    good = ~want.bad
    assert torch.equal(got.draw[good], want.draw[good])
    assert torch.equal(got.masked[good], want.masked[good])
    return got


FLAGS = [
    flags if sum(flags[2:]) in (0, 3) or not flags[0] else pytest.param(*flags, marks=pytest.mark.slow)
    for flags in itertools.product((False, True), repeat=5)
    if flags[0] or not flags[1]
]


@pytest.mark.parametrize("noise, filters, penalties, bias, masked", FLAGS)
def test_equals_the_definition(device, noise, filters, penalties, bias, masked):
    torch.manual_seed(hash((noise, filters, penalties, bias, masked)) % 1000)
    tables, machine = make_tables(device)
    slots = torch.randperm(SLOTS, device=device)
    logits = torch.randn(SLOTS, VOCAB, device=device) * 3
    rows = torch.arange(0, SLOTS, 2, device=device)
    logits[rows, machine.trigger_last[slots[rows], 0].clamp(min=0).long()] = 20.0  # draws that the mask must replace
    needs = SamplingNeeds(noise, filters, penalties, bias, masked)
    compare(logits, tables, machine, slots, VOCAB - 5, needs, near=20.0)


@pytest.mark.parametrize("batch", [0, 1, 7, pytest.param(64, marks=pytest.mark.slow)])
def test_batches(device, batch):
    """64 rows share the eight slots: equal parameters and noise, other logits."""
    tables, machine = make_tables(device, 700)
    slots = torch.randint(0, SLOTS, (batch,), device=device)
    logits = torch.randn(batch, 700, device=device) * 3
    compare(logits, tables, machine, slots, 700, SamplingNeeds(True, True, True, True, True), near=20.0)


@pytest.mark.parametrize("near", [0.01, pytest.param(2.0, marks=pytest.mark.slow)])
def test_too_few_candidates_near_the_maximum_are_noticed(device, near):
    tables, machine = make_tables(device)
    slots = torch.arange(1, SLOTS, 2, device=device)  # every kind of filter is among them
    logits = torch.randn(len(slots), VOCAB, device=device)
    compare(logits, tables, machine, slots, VOCAB, SamplingNeeds(noise=True, filters=True, masked=True), near)


def test_rows_without_a_token_to_draw(device):
    """NaN, nothing allowed, and nothing left once triggers and EOS are masked: reported or replaced, row by row."""
    tables, machine = make_tables(device)
    logits = torch.randn(SLOTS, VOCAB, device=device)
    logits[1, 4321] = torch.nan
    logits[2] = -torch.inf
    logits[4] = -torch.inf
    logits[4, machine.trigger_last[4, 0].clamp(min=0).long()] = 1.0
    machine.trigger_last[4].clamp_(min=0)
    machine.params[4] = 0
    needs = SamplingNeeds(noise=True, filters=True, masked=True)
    slots = torch.arange(SLOTS, device=device)
    got = compare(logits, tables, machine, slots, VOCAB, needs, near=20.0)
    assert got.bad.tolist() == [False, True, True] + [False] * 5
    assert got.masked[4] == got.draw[4]


def test_noise_of_the_definition_is_standard_gumbel():
    """Mean 0.5772, variance pi^2 / 6: what makes argmax(z + noise) a draw from the softmax."""
    noise = gumbel(torch.tensor([[1, 2, 0]], dtype=torch.int32), torch.tensor([5], dtype=torch.int32), 200_000)
    assert abs(noise.mean() - 0.5772) < 0.01 and abs(noise.var() - 1.6449) < 0.03
