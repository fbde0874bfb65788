"""The pieces of a step, on the CPU: who runs next and on which pages, what is drawn, and its text."""

from array import array

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from engine import SamplingParams, TokenKind, prepare
from engine.schedule.page_pool import ROOT, PagePool
from engine.schedule.scheduler import Scheduler
from engine.schedule.sequence import Admission
from engine.step.slots import SlotTables, needs_of, sampling_needs
from engine.text.output import OutputStream
from engine.text.tokenizer import Tokenizer
from engine.thinking.plan import PRESETS, resolve_format
from kernels import sampler, thinking

VOCAB, PAGE_SIZE, CONTEXT = 32000, 16, 4096


def admitted(tokenizer: Tokenizer, prompts: list[list[int]], params: SamplingParams, context: int) -> Scheduler:
    """A scheduler with requests of these prompts, and pages for `context` tokens of each."""
    preparer = prepare.Preparer(tokenizer, "s1", context)
    scheduler = Scheduler(PagePool(len(prompts) * context // PAGE_SIZE + 1, PAGE_SIZE), len(prompts), 8192)
    for i, prompt in enumerate(prompts):
        scheduler.add(Admission(i, preparer.prepare(prompt, params), i))
    return scheduler


def published(pool: PagePool, pages: list[int] | None, chain: int, tokens: "array[int]") -> int:
    """Write `tokens` into allocated pages behind `chain` and release them; the chain's new end."""
    assert pages is not None
    for at, page in enumerate(pages):
        chain = pool.publish(page, chain, tokens[at * PAGE_SIZE : (at + 1) * PAGE_SIZE])
    pool.release(pages)
    return chain


@pytest.mark.parametrize("batch", [1, 16, 128])
def test_decode_step(benchmark: BenchmarkFixture, tokenizer: Tokenizer, batch: int) -> None:
    """Schedule one token for each of `batch` running sequences and commit it."""
    prompts = [[5 + i] * 32 for i in range(batch)]
    scheduler = admitted(tokenizer, prompts, SamplingParams(max_tokens=CONTEXT, thinking_format="none"), CONTEXT)

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
        return found, published(pool, pool.allocate(pool.pages_for(len(tokens))), chain, tokens)

    found, chain = benchmark(life)
    assert found == [] and chain != ROOT
    pool.check([])


def test_prefix_hit(benchmark: BenchmarkFixture) -> None:
    """Look up a prompt of 1,024 tokens that the cache has."""
    pool = PagePool(256, PAGE_SIZE)
    tokens = array("i", range(1024))
    published(pool, pool.allocate(64), ROOT, tokens)
    found, _ = benchmark(pool.find, tokens)
    assert len(found) == 63  # one token is always computed


def seated(tokenizer: Tokenizer, batch: int, params: SamplingParams) -> tuple[SlotTables, torch.Tensor, int]:
    """Tables with `batch` requests in them, their slots and needs."""
    prompts = [[5] * 8 + tokenizer.encode(PRESETS["s1"].opener, specials=True)] * batch
    tables = SlotTables(
        torch.device("cpu"), batch, 512, PAGE_SIZE, VOCAB, tokenizer.eos_token_ids, torch.zeros(VOCAB, dtype=torch.bool)
    )
    bits, step = 0, admitted(tokenizer, prompts, params, 512).schedule(drained=True)
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
    draws = benchmark(lambda: sampler.sample(logits.clone(), tables.sampling, machine, slots, VOCAB, needs))
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
        return thinking.thinking_step(machine, slots, draw, draw, bad)

    records = benchmark(step)
    assert (records[:, 0] == 9).all()


@pytest.mark.parametrize("stop", [(), ("Final Answer:", "\n\n\n")], ids=["no_stop", "two_stops"])
def test_detokenizer(benchmark: BenchmarkFixture, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
    """1,000 tokens of reasoning, one at a time."""
    format = resolve_format("s1", tokenizer)
    ids = tokenizer.encode("Let us count the ways, one at a time; there are 144 of them. " * 40)[:1000]

    def run() -> OutputStream:
        stream = OutputStream(tokenizer, [1, 2, 3], format, stop, tokenizer.eos_token_ids, False)
        for token in ids:
            stream.push(token, TokenKind.REASONING)
        stream.finish()
        return stream

    assert benchmark(run).text == tokenizer.decode(ids)
