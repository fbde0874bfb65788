"""The engine's own Python machine against the independent reading, on contexts that remember their whole history."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.request import SamplingParams
from engine.text.tokenizer import Tokenizer
from engine.thinking.plan import make_plan, resolve_format
from engine.thinking.reference_machine import Machine
from kernels.thinking import Finish, Stop
from kernels.thinking_tables import traits_of
from tests.conformance.cases import ALPHABET, FORMATS, LOUD, SPECIALS, Case, cases, encode_format
from tests.conformance.scripted import Vocabulary, make_tokenizer, vocabulary_of, write_tokenizer
from tests.conformance.simulate import Outcome, simulate

CONTEXT = 64
VOCABULARY = vocabulary_of(make_tokenizer(SPECIALS))


def ranking_of(seed: int, vocabulary: Vocabulary):
    """A model: committed ids -> a permutation of the alphabet in which the first places are often loud."""
    loud, every = vocabulary.tokens(*LOUD), vocabulary.tokens(*ALPHABET)

    def ranking(history: list[int]) -> list[int]:
        chance = random.Random(f"{seed} {history[-4:]} {len(history)}")
        order = chance.sample(every, len(every))
        return [chance.choice(loud), *order] if chance.random() < 0.5 else order

    return ranking


def run_machine(case: Case, tokenizer: Tokenizer, ranking) -> Outcome:
    """The twin, fed with the draws that a sampler would deliver."""
    params, eos = case.params, tokenizer.eos_token_ids
    spec = case.format if case.format in ("s1", "qwen3") else FORMATS[case.format]
    plan = make_plan(params, resolve_format(spec, tokenizer), case.prompt, CONTEXT, tokenizer, eos)
    traits = [traits_of(tokenizer.token_bytes(i)) for i in range(tokenizer.size)]
    machine, out = Machine(plan, case.prompt, eos, traits), Outcome()
    excluded = {t[-1] for t in plan.format.triggers} | set(eos)
    while machine.finish is Finish.RUNNING:
        banned = set(params.banned_token_ids) | (set(eos) if machine.eos_banned else set())
        ranked = [t for t in ranking(machine.history) if t not in banned]
        commit = machine.step(ranked[0], next(t for t in ranked if t not in excluded))
        if commit.token is not None:
            if commit.forced:
                out.forced.append(len(out.token_ids))
            out.token_ids.append(commit.token)
            out.kinds.append(commit.kind)
        out.thinking_tokens, out.extensions = commit.thinking, commit.extensions
        out.stop_reason = None if commit.stop_reason is Stop.NONE else commit.stop_reason.name.lower()
        out.finish_reason = commit.finish.name.lower()
    return out


def make_cases(tmp_path) -> Tokenizer:
    write_tokenizer(tmp_path, make_tokenizer(SPECIALS))
    return Tokenizer.load(tmp_path)


def test_the_machine_and_the_specification_agree(tmp_path):
    tokenizer = make_cases(tmp_path)

    @settings(max_examples=500, deadline=None)
    @given(case=cases(VOCABULARY), seed=st.integers(0, 2**32))
    def check(case: Case, seed: int) -> None:
        ranking = ranking_of(seed, VOCABULARY)
        fmt = encode_format(case.format, VOCABULARY)
        want = simulate(ranking, fmt, case.params, case.prompt, case.texts(VOCABULARY), CONTEXT)
        got = run_machine(case, tokenizer, ranking)
        assert (got.token_ids, got.forced) == (want.token_ids, want.forced)
        for name in ("finish_reason", "stop_reason", "extensions", "thinking_tokens"):
            assert getattr(got, name) == getattr(want, name), name

    check()


def test_the_oracle_closes_at_the_budget():
    """The oracle itself on a case worked by hand: two tokens of thought, a newline, `budget_end`, one answer token."""
    prompt = VOCABULARY.encode("<|im_start|>think")
    case = Case("s1", SamplingParams(thinking_token_budget=2, max_tokens=10), prompt)
    want = simulate(
        lambda _: VOCABULARY.tokens("a", "b"),
        encode_format("s1", VOCABULARY),
        case.params,
        prompt,
        case.texts(VOCABULARY),
        CONTEXT,
    )
    assert VOCABULARY.text(want.token_ids) == "aa\n<|im_start|>answer\nFinal Answer:a"
    assert want.forced == [2, 3, 4, 5, 6, 7, 8]
    assert (want.thinking_tokens, want.stop_reason, want.finish_reason) == (2, "budget", "length")
