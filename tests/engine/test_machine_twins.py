"""The device's thinking machine and greedy draws, as torch definition and in C++, against the plain-Python machine."""

import random
from array import array

import pytest
import torch

from engine.request import SamplingParams
from engine.schedule.sequence import Admission, Prepared, Sequence
from engine.step.slots import LEAD, LOOPS, OPENER, TEXT, SlotTables
from engine.thinking.automaton import TokenBytes, next_states
from engine.thinking.plan import TextDelimiters, ThinkingFormat, make_plan
from engine.thinking.reference_machine import Machine
from kernels.native import library as native
from kernels.native import step as native_step
from kernels.sampler import SamplingNeeds, sample_reference
from kernels.thinking import UNLIMITED, Finish, Phase, State, thinking_step_reference
from tests.engine.letters import EOS, NEWLINE, TRAITS, VOCAB, Letters, Spelled

FORMATS = (
    ThinkingFormat((5, 6), (5, 7), (5, 7, 8, 9), ((5,),)),
    ThinkingFormat((10,), (11,), (11, 4), ((11,),)),
    ThinkingFormat((5, 6), (5, 5, 7), (5, 5, 7, 8), ((5, 5, 12),)),  # self-overlapping, several tokens
    ThinkingFormat(),
    ThinkingFormat((5, 9, 8), (10, 12), (10, 7, 17), (), TextDelimiters("<o>", ("</t>",))),
    ThinkingFormat((20, 8), (5, 6, 7, 8), (15, 8, 13), (), TextDelimiters("<o>", ("</t>", "<q"))),
    ThinkingFormat((5, 9, 8), (5, 6, 7, 8), (5, 11, 8), (), TextDelimiters("<o>", ("</t>",))),
)
SPELLED = TokenBytes(VOCAB, Spelled().token_bytes)
ROWS = {
    f.text: {
        Phase.THINK: next_states([t.encode() for t in f.text.triggers], SPELLED),
        Phase.PLAIN: next_states([f.text.opener.encode()], SPELLED),
    }
    for f in FORMATS
    if f.text is not None
}


def random_case(chance: random.Random) -> tuple[SamplingParams, ThinkingFormat, list[int]]:
    """Parameters that the engine accepts, small enough that every limit is met often."""
    format = chance.choice(FORMATS)
    prompt = [chance.randrange(3, VOCAB) for _ in range(chance.randrange(1, 6))]
    if format.thinks and chance.random() < 0.7:
        prompt += [*format.opener, *(chance.randrange(12, VOCAB) for _ in range(chance.randrange(3)))]
    if not format.thinks:
        return SamplingParams(max_tokens=chance.randrange(1, 30), min_tokens=chance.randrange(4)), format, prompt
    budget = chance.choice([None, 0, 1, *range(2, 12)])
    loop = chance.choice([(0, 0), (1, 2), (1, 2), (2, 2)])
    return (
        SamplingParams(
            max_tokens=chance.choice([*[None] * 6, *range(12, 40)]),  # None: the context ends it
            min_tokens=chance.choice([0, 0, 5]),
            ignore_eos=chance.random() < 0.2,
            stop_token_ids=tuple(chance.sample(range(12, VOCAB), chance.randrange(3))),
            thinking_token_budget=budget,
            min_thinking_tokens=chance.randrange(0, min(4, budget if budget is not None else 4) + 1),
            thinking_extensions=0 if format.max_lead else chance.randrange(4),
            thinking_extension_str=chance.choice(["", "q", "qr", "qrq"]),
            thinking_grace_tokens=chance.choice([0, 0, 3]),
            thinking_budget_action=chance.choice(["force_end", "force_end", "truncate"]),
            thinking_eos_policy=chance.choice(["end", "stop"]),
            min_answer_tokens=chance.randrange(3),
            answer_reserve_tokens=chance.randrange(4),
            loop_ngram=loop[0],
            loop_count=loop[1],
        ),
        format,
        prompt,
    )


def native_or_skip() -> None:
    if not native.LOADED:
        pytest.skip(f"the C++ twin is not here: {native.REASON}")


@pytest.mark.parametrize("least", [30_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("implementation", ["reference", "native"])
def test_machine_equals_the_python_machine(implementation: str, least: int) -> None:
    if implementation == "native":
        native_or_skip()
    step = thinking_step_reference if implementation == "reference" else native_step.thinking_step
    chance, slots, transitions, rounds = random.Random(11), 256, 0, 0
    reasons: set[int] = set()
    taken = [0] * 8
    while transitions < least:
        rounds += 1
        traits = torch.tensor(TRAITS, dtype=torch.uint8)
        tables = SlotTables(torch.device("cpu"), slots, 60, 16, VOCAB, EOS, traits, Spelled().token_bytes)
        twins: list[Machine] = []
        for slot in range(slots):
            params, format, prompt = random_case(chance)
            letters = Letters() if format.text is None else Spelled()
            plan = make_plan(params, format, prompt, 60, letters, EOS)
            sequence = Sequence(
                Admission(slot, Prepared(array("i", prompt), params, plan), 0), 0, slot, array("i", prompt), slot=slot
            )
            tables.seat(sequence)
            twins.append(Machine(plan, prompt, EOS, TRAITS, ROWS.get(format.text)))
        machine = tables.for_step(LEAD | OPENER | LOOPS | TEXT).machine
        rows = torch.randperm(slots, generator=torch.Generator().manual_seed(rounds))
        while any(twin.finish is Finish.RUNNING for twin in twins):
            draws = [draw_for(chance, twins[slot]) for slot in rows.tolist()]
            columns = [torch.tensor(column) for column in zip(*draws, strict=True)]
            if chance.random() < 0.05:  # live control between two steps
                thinks = [at for at, twin in enumerate(twins) if twin.phase is Phase.THINK and not twin.finish]
                slot = chance.choice(thinks or [0])
                machine.state[slot, State.END_REQUESTED] = 1
                twins[slot].end_requested = True
            records = step(machine, rows, *columns).tolist()
            for slot, (draw, masked, bad), record in zip(rows.tolist(), draws, records, strict=True):
                transitions += twins[slot].finish is Finish.RUNNING
                commit = twins[slot].step(draw, masked, bad)
                taken[commit.taken] += 1
                expected = [
                    -1 if commit.token is None else commit.token,
                    commit.kind,
                    commit.forced,
                    commit.finish,
                    commit.stop_reason,
                    commit.thinking,
                    commit.extensions,
                    commit.taken,
                    commit.held,
                ]
                if commit.token is None:
                    expected[1] = record[1]  # the kind of nothing
                assert record == [int(value) for value in expected], (slot, twins[slot].plan, twins[slot].history)
        assert machine.state[:slots, State.ANSWERED].tolist() == [twin.answered for twin in twins]
        for slot, twin in enumerate(twins):
            assert machine.history[slot, : len(twin.history)].tolist() == twin.history
        reasons |= {twin.stop_reason for twin in twins}
    assert min(taken[1:4]) > 10, f"tokens taken back at once: {taken}"
    assert len(reasons) == 9, f"every stop reason and none at all occurs: {reasons}"


def draw_for(chance: random.Random, twin: Machine) -> tuple[int, int, bool]:
    """A draw that likes delimiters and EOS, and a masked draw that avoids them."""
    format = twin.plan.format
    loud = [*EOS, *(token for text in (format.end, format.opener, *format.triggers) for token in text), NEWLINE]
    rows = ROWS.get(format.text, {}).get(twin.phase)
    state = twin.marks[-1][0]
    going_on = [] if rows is None else [t for t in range(VOCAB) if rows[state, t] != rows[0, t]]
    quiet = twin.plan.budget == twin.plan.max_tokens == UNLIMITED and not twin.plan.loop_ngram
    if quiet and chance.random() < 0.95:  # until the context ends it
        draw = chance.choice([13, 14])
    elif going_on and chance.random() < 0.8:  # with a delimiter of plain text
        draw = chance.choice(going_on)
    else:
        draw = chance.choice(loud) if chance.random() < 0.4 else chance.choice([*range(12, 16), *range(VOCAB)])
    if twin.eos_banned and draw in EOS:
        draw = 15
    return draw, chance.randrange(13, VOCAB), chance.random() < 0.002


def test_native_greedy_equals_the_definition() -> None:
    native_or_skip()
    generator = torch.Generator().manual_seed(0)
    tables = SlotTables(torch.device("cpu"), 8, 60, 16, 80, EOS, torch.zeros(77, dtype=torch.uint8))
    for slot in range(8):
        params = SamplingParams(min_tokens=3 * (slot % 2), thinking_extensions=1, ignore_eos=slot == 3)
        prompt = [9, *FORMATS[0].opener]
        plan = make_plan(params, FORMATS[0], prompt, 60, Letters(), EOS)
        tables.seat(
            Sequence(
                Admission(slot, Prepared(array("i", prompt), params, plan), 0), 0, slot, array("i", prompt), slot=slot
            )
        )
    machine, slots = tables.for_step(0).machine, torch.arange(8)
    for trial in range(300):
        logits = torch.randn(8, 80, generator=generator).round(decimals=1)  # ties
        logits[:, [1, 2, 5]] += float(trial % 5)
        if trial % 7 == 0:
            logits[trial % 8, trial % 77] = float("nan")
        if trial % 11 == 0:
            logits[trial % 8] = float("-inf")
        for masked in (False, True):
            needs = SamplingNeeds(masked=masked)
            expected = sample_reference(logits.clone(), tables.sampling, machine, slots, 77, needs)
            found = native_step.sample(logits.clone(), tables.sampling, machine, slots, 77, needs)
            good = ~expected.bad
            assert torch.equal(found.bad, expected.bad)
            assert torch.equal(found.draw[good], expected.draw[good])
            assert torch.equal(found.masked[good], expected.masked[good])
