"""The soak itself, for seconds: nothing is found, and what would be wrong is."""

from dataclasses import replace

import pytest

from bench import soak


@pytest.fixture(scope="module")
def run():
    soaked = soak.Soak(soak.Options(minutes=0.03, requests=24))
    yield soaked
    soaked.engine.close()
    soaked.reference.close()


def test_some_seconds_of_it_find_nothing(run):
    run.run()
    assert run.findings == [] and run.counts["tokens"] > 100
    assert run.engine.stats()["running"] == run.engine.stats()["waiting"] == 0


def test_a_wrong_token_is_found(run):
    run.cases = [replace(case, alone=[replace(one, token_ids=[0]) for one in case.alone]) for case in run.cases]
    run.findings.clear()
    handle = run.engine.submit(run.cases[1].prompt, run.cases[1].params)
    run._end(1, handle, soak.random.Random(1))
    assert run.findings and "instead of" in run.findings[0]


def test_flags_are_bounded():
    for options in (soak.Options(minutes=float("nan")), soak.Options(threads=0), soak.Options(requests=10**30)):
        with pytest.raises(soak.InputError, match="give a number above 0, at most"):
            soak.main(options)
