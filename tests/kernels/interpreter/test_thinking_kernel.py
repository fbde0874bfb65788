"""The machine kernel against its definition over random transitions from random states."""

import pytest
import torch

from kernels.thinking import Finish, MachineTables, Param, Phase, Record, State, Stop, Text, thinking_step_reference
from kernels.thinking_tables import HELD_SHIFT
from kernels.thinking_triton import thinking_step_triton

SLOTS, CONTEXT, ALPHABET, STRING, TEXT_ROWS = 1024, 48, 7, 5, 6


def random_tables(
    generator: torch.Generator, max_lead: int, max_opener: int, loops: bool, text: bool = False
) -> MachineTables:
    """Slots in states that requests reach and in many that they never do; ids from a small alphabet, so all match."""

    def ints(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=generator, dtype=torch.int32)

    strings = ints(0, ALPHABET, SLOTS, len(Text), STRING)
    leads = ints(0, max_lead + 1, SLOTS, 2)
    state = torch.zeros(SLOTS, len(State), dtype=torch.int32)
    params = torch.zeros(SLOTS, len(Param), dtype=torch.int32)
    tables = MachineTables(
        state,
        params,
        strings,
        ints(-1, ALPHABET, SLOTS, 2),
        leads,
        ints(-1, ALPHABET, SLOTS, 2),
        ints(0, ALPHABET, SLOTS, CONTEXT + 1),
        torch.tensor([1, 2], dtype=torch.int32),
        (torch.arange(ALPHABET) % 4).to(torch.uint8),
        max_lead=max_lead,
        max_opener=max_opener,
        loops=loops,
        text=text,
        next=ints(-2, 2 * TEXT_ROWS, 3 * TEXT_ROWS, ALPHABET).short() * (ints(0, 2, 3 * TEXT_ROWS, ALPHABET)).short(),
        marks=ints(0, TEXT_ROWS, SLOTS, CONTEXT + 1) + (ints(0, 4, SLOTS, CONTEXT + 1) << HELD_SHIFT),
    )
    reset(tables, torch.arange(SLOTS), generator)
    return tables


def reset(tables: MachineTables, slots: torch.Tensor, generator: torch.Generator) -> None:
    """New random states and parameters for `slots`."""

    def column(low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, (len(slots),), generator=generator, dtype=torch.int32)

    length = column(8, CONTEXT - 8)
    state = {
        State.PHASE: column(0, len(Phase)),
        State.FINISH: (column(0, 12) == 0).int() * column(1, len(Finish)),
        State.STOP_REASON: column(0, len(Stop)),
        State.LENGTH: length,
        State.COMMITTED: length - column(0, 9),
        State.THINKING: column(0, 20),
        State.EXTENSIONS_LEFT: column(0, 3),
        State.EXTENSIONS_USED: column(0, 3),
        State.FORCED: (column(0, 3) == 0).int() * column(1, 4),
        State.FORCED_POS: column(0, STRING - 1),
        State.MASK_NEXT: column(0, 2),
        State.NEWLINE: column(0, 2),
        State.MATCH_FROM: length - column(0, 9),
        State.CLOSED: column(0, 2),
        State.ANSWERED: column(0, 5),
        State.LOOP_RUN: column(0, 4),
        State.END_REQUESTED: (column(0, 12) == 0).int(),
    }
    unlimited, by_text = torch.full_like(length, 2**31 - 1), column(0, 2)
    params = {
        Param.BUDGET: torch.where(column(0, 3) == 0, unlimited, column(0, 30)),
        Param.MIN_THINKING: column(0, 8),
        Param.GRACE: column(0, 8),
        Param.TRUNCATE: (column(0, 4) == 0).int(),
        Param.EOS_STOPS: column(0, 2),
        Param.IGNORE_EOS: (column(0, 4) == 0).int(),
        Param.MAX_TOKENS: column(10, 60),
        Param.MAX_CONTEXT: column(10, 60),
        Param.RESERVE: column(0, 8),
        Param.LOOP_NGRAM: column(0, 4),
        Param.LOOP_RUN: torch.where(column(0, 2) == 0, unlimited, column(1, 8)),
        Param.EXTENSION_LEN: column(0, STRING),
        Param.END_LEN: column(2, STRING),
        Param.BUDGET_END_LEN: column(2, STRING + 1),
        Param.BUDGET_END_AT: column(0, 3),
        Param.OPENER_LEN: column(0, tables.max_opener + 1),
        Param.NEWLINE_ID: column(0, ALPHABET),
        Param.MIN_ANSWER: column(0, 3),
        Param.MIN_TOKENS: column(0, 3),
        Param.ANSWER_AT: column(2, 6),
        Param.TEXT_ROW: by_text * (TEXT_ROWS + 1) - 1,
        Param.OPENER_ROW: by_text * (column(0, TEXT_ROWS) + 1) - 1,
    }
    tables.state[slots] = torch.stack([state[c] for c in State], 1)
    tables.params[slots] = torch.stack([params[c] for c in Param], 1)


def copy_of(tables: MachineTables, device: torch.device) -> MachineTables:
    """The same tables in memory of their own on `device`."""
    values = {
        name: value.clone().to(device) if isinstance(value, torch.Tensor) else value
        for name, value in vars(tables).items()
    }
    return MachineTables(**values)


@pytest.mark.parametrize(
    "max_lead, max_opener, loops, text",
    [
        (0, 0, False, False),
        (2, 3, True, True),
        pytest.param(0, 3, True, False, marks=pytest.mark.slow),
        pytest.param(1, 0, False, True, marks=pytest.mark.slow),
    ],
)
def test_equals_the_definition_over_random_transitions(device, max_lead, max_opener, loops, text):
    """25 steps of 1,024 rows each, over 100,000 transitions in all; tokens, records, states and histories are equal."""
    generator = torch.Generator().manual_seed(17 + max_lead)
    want = random_tables(generator, max_lead, max_opener, loops, text)
    seen = set()
    for _ in range(25):
        got = copy_of(want, device)
        slots = torch.randperm(SLOTS, generator=generator)
        draw, masked = torch.randint(0, ALPHABET, (2, SLOTS), generator=generator)
        bad = torch.rand(SLOTS, generator=generator) < 0.02
        record = thinking_step_triton(
            got, slots.to(device), draw.to(device), masked.to(device), bad.to(device), block=SLOTS
        )
        expected = thinking_step_reference(want, slots, draw, masked, bad)
        assert torch.equal(record.cpu(), expected)
        assert torch.equal(got.state.cpu(), want.state)
        # The last column takes the writes of rows that commit nothing, in any order.
        assert torch.equal(got.history[:, :-1].cpu(), want.history[:, :-1])
        assert torch.equal(got.marks[:, :-1].cpu(), want.marks[:, :-1])
        seen |= {tuple(r) for r in expected[:, [Record.KIND, Record.FORCED, Record.FINISH]].tolist()}
        over = (want.state[:, State.FINISH] > 0) | (want.state[:, State.LENGTH] >= CONTEXT - 1)
        reset(want, over.nonzero()[:, 0], generator)
    assert len(seen) >= 15, seen  # kinds, forced and free, running and finished: the walk is not a trivial one


@pytest.mark.parametrize("batch", [1, 7, 37, 64])
def test_a_batch_that_is_no_multiple_of_the_block(device, batch):
    generator = torch.Generator().manual_seed(3)
    want = random_tables(generator, 1, 2, False)
    got = copy_of(want, device)
    slots = torch.randperm(SLOTS, generator=generator)[:batch]
    draw, masked = torch.randint(0, ALPHABET, (2, batch), generator=generator)
    bad = torch.zeros(batch, dtype=torch.bool)
    record = thinking_step_triton(got, slots.to(device), draw.to(device), masked.to(device), bad.to(device))
    assert torch.equal(record.cpu(), thinking_step_reference(want, slots, draw, masked, bad))
    assert torch.equal(got.state.cpu(), want.state)
