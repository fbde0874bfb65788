"""Random transition tables, random requests in random company: the engine against the oracle, token by token."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.cases import (
    CONTEXT,
    EVERY,
    FORMATS,
    ROOMY,
    SPECIALS,
    VOCABULARY,
    Case,
    cases,
    random_table,
)

TIGHT = {
    "max_model_len": CONTEXT,
    "kv_cache_tokens": 104,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 13,
    "page_size": 8,
}
EXAMPLES = int(os.environ.get("CONFORMANCE_EXAMPLES", "30"))
"""Batches of up to 12 requests for each table and engine in the slow tests; raise it for a long search."""


@pytest.mark.parametrize("kernels", ["native", "definitions"])
@pytest.mark.parametrize("config", [ROOMY, TIGHT], ids=["roomy", "tight"])
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("examples", [6, pytest.param(EXAMPLES, marks=pytest.mark.slow)], ids=["some", "many"])
def test_the_engine_and_the_specification_agree(labs, config, seed, kernels, examples, request):
    if kernels == "definitions":
        request.getfixturevalue("definitions")
        seed += 2
    lab = labs(random_table(seed), {"specials": SPECIALS, "best": 60.0}, **config)

    @settings(max_examples=examples)
    @given(batch=st.lists(cases(VOCABULARY, EVERY), min_size=1 if config is ROOMY else 8, max_size=12))
    def check(batch: list[Case]) -> None:
        requests = []
        for case in batch:
            form = {"prompt": list(case.prompt), "format": case.format, **vars(case.params)}
            form.pop("thinking_format")
            requests.append(form)
        lab.ask_all(requests)

    check()
    lab.engine.check()
    if config is TIGHT and examples == EXAMPLES:  # a few batches may all find room
        assert lab.engine.stats()["preemptions"] > 0


def test_the_random_tables_reach_every_ending(labs):
    """The cases above are no empty promise: over the four tables all reasons and extensions occur."""
    seen = set()
    for seed in (1, 2, 3, 4):
        lab = labs(random_table(seed), {"specials": SPECIALS, "best": 60.0}, **ROOMY)

        @settings(max_examples=20, derandomize=True)  # drawn anew, a format or an ending is missed now and then
        @given(batch=st.tuples(*(cases(VOCABULARY, (name,)) for name in EVERY)))
        def collect(batch: tuple[Case, ...]) -> None:
            for case in batch:
                want = lab.oracle(case)  # noqa: B023
                seen.add(want.stop_reason)
                seen.add((case.format, bool(want.forced)))
                seen.add(("extensions", want.extensions > 1))

        collect()
    assert {"natural", "eos", "budget", "max_tokens", "truncated", None, ("extensions", True)} <= seen
    assert {(name, True) for name in FORMATS} <= seen
