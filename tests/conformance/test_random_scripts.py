"""Random transition tables, random requests in random company: the engine against the oracle, token by token."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.cases import ALPHABET, FORMATS, LOUD, SPECIALS, Case, cases
from tests.conformance.scripted import make_tokenizer, vocabulary_of

VOCABULARY = vocabulary_of(make_tokenizer(SPECIALS))
CONTEXT = 96
ROOMY = {"max_model_len": CONTEXT, "kv_cache_tokens": 4096, "max_num_seqs": 64}
TIGHT = {
    "max_model_len": CONTEXT, "kv_cache_tokens": 192, "max_num_seqs": 6, "max_num_batched_tokens": 9, "page_size": 8,
}  # fmt: skip
EVERY = ("s1", "qwen3", "step", "overlapping", "deepseek_r1", "none")


def random_table(seed: int) -> dict:
    """What follows each token of the alphabet: often a trigger, an EOS or part of a delimiter; never a dead end."""
    chance = random.Random(seed)
    quiet = [name for name in ALPHABET if name not in LOUD]
    table = {}
    for name in ALPHABET:
        loud = list(dict.fromkeys(chance.choices(LOUD, k=chance.randrange(3))))
        calm = chance.sample(quiet, 4)
        table[name] = loud + calm if chance.random() < 0.4 else calm[:1] + loud + calm[1:]
    return table


@pytest.mark.parametrize("config", [ROOMY, TIGHT], ids=["roomy", "tight"])
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_the_engine_and_the_specification_agree(labs, config, seed):
    lab = labs(random_table(seed), {"specials": SPECIALS}, **config)

    @settings(max_examples=25)
    @given(batch=st.lists(cases(VOCABULARY, CONTEXT, EVERY), min_size=1, max_size=12))
    def check(batch: list[Case]) -> None:
        requests = []
        for case in batch:
            form = {"prompt": list(case.prompt), "format": case.format, **vars(case.params)}
            form.pop("thinking_format")
            requests.append(form)
        lab.ask_all(requests)

    check()
    lab.engine.check()
    if config is TIGHT:
        assert lab.engine.stats()["preemptions"] > 0


def test_the_random_tables_reach_every_ending(labs):
    """The cases above are no empty promise: over the four tables all reasons and extensions occur."""
    seen = set()
    for seed in (1, 2, 3, 4):
        lab = labs(random_table(seed), {"specials": SPECIALS}, **ROOMY)

        @settings(max_examples=120)
        @given(case=cases(VOCABULARY, CONTEXT, EVERY))
        def collect(case: Case, lab=lab) -> None:
            want = lab.oracle(case)
            seen.add(want.stop_reason)
            seen.add((case.format, bool(want.forced)))
            seen.add(("extensions", want.extensions > 1))

        collect()
    assert {"natural", "eos", "budget", "max_tokens", "truncated", None, ("extensions", True)} <= seen
    assert {(name, True) for name in FORMATS} <= seen
