"""The host's part of a step: who runs next, and which pages they get."""

from __future__ import annotations

from array import array

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from engine.prepare import Preparer
from engine.request import SamplingParams
from engine.schedule.pages import ROOT, PagePool
from engine.schedule.scheduler import Scheduler
from engine.schedule.sequence import Admission
from engine.text.tokenizer import Tokenizer

PAGE_SIZE, CONTEXT = 16, 4096


@pytest.mark.parametrize("batch", [1, 16, 128])
def test_decode_step(benchmark: BenchmarkFixture, tokenizer: Tokenizer, batch: int) -> None:
    """Schedule one token for each of `batch` running sequences and commit it."""
    preparer = Preparer(tokenizer, "none", CONTEXT)
    scheduler = Scheduler(PagePool(batch * CONTEXT // PAGE_SIZE + 1, PAGE_SIZE), batch, 8192)
    for i in range(batch):
        prepared = preparer.prepare([5 + i] * 32, SamplingParams(max_tokens=CONTEXT))
        scheduler.add(Admission(i, prepared, i))

    def step() -> None:
        planned = scheduler.schedule(drained=True)
        assert planned is not None
        for sequence in planned.rows:
            scheduler.commit(sequence, 7)

    step()
    benchmark.pedantic(step, rounds=500, warmup_rounds=20)
    assert len(scheduler.running) == batch
    scheduler.check()


def test_page_pool(benchmark: BenchmarkFixture) -> None:
    """Look up a new prompt of 1,024 tokens, allocate its pages, publish and release them."""
    pool = PagePool(4096, PAGE_SIZE)
    serial = iter(range(10**9))

    def life() -> tuple[list[int], int]:
        tokens = array("i", [next(serial)] * 1024)
        found, chain = pool.find(tokens)
        pages = pool.allocate(pool.pages_for(len(tokens)))
        assert pages is not None
        for at, page in enumerate(pages):
            chain = pool.publish(page, chain, tokens[at * PAGE_SIZE : (at + 1) * PAGE_SIZE])
        pool.release(pages)
        return found, chain

    found, chain = benchmark(life)
    assert found == [] and chain != ROOT
    pool.check([])


def test_prefix_hit(benchmark: BenchmarkFixture) -> None:
    """Look up a prompt of 1,024 tokens that the cache has."""
    pool = PagePool(256, PAGE_SIZE)
    tokens = array("i", range(1024))
    pages, chain = pool.allocate(64), ROOT
    assert pages is not None
    for at, page in enumerate(pages):
        chain = pool.publish(page, chain, tokens[at * PAGE_SIZE : (at + 1) * PAGE_SIZE])
    pool.release(pages)
    found, _ = benchmark(pool.find, tokens)
    assert len(found) == 63  # one token is always computed
