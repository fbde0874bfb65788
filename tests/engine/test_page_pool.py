"""The page pool and the scheduler: accounting after every step, prefix hits by content, nothing left behind."""

import random
from array import array
from itertools import takewhile
from operator import eq

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.errors import EngineDead
from engine.request import SamplingParams
from engine.schedule.page_pool import PagePool
from engine.schedule.scheduler import Scheduler, Step
from engine.schedule.sequence import Admission, Prepared, Sequence
from engine.thinking.plan import ThinkingFormat, make_plan
from tests.engine.letters import EOS, Letters

SLOTS, PAGES, PAGE_SIZE, BATCH = 6, 20, 4, 17
CONTEXT = PAGES * PAGE_SIZE


def admission(number: int, prompt: list[int], max_tokens: int, n: int) -> Admission:
    params = SamplingParams(max_tokens=max_tokens, n=n)
    plan = make_plan(params, ThinkingFormat(), prompt, CONTEXT, Letters(), EOS)
    return Admission(number, Prepared(array("i", prompt), params, plan), 0)


class Traffic(RuleBasedStateMachine):
    """Requests come, fork, grow, are preempted, stop and are aborted; one step may be in flight, as under overlap."""

    @initialize(overlap=st.booleans())
    def start(self, overlap: bool) -> None:
        self.scheduler = Scheduler(PagePool(PAGES + 1, PAGE_SIZE), SLOTS, BATCH)
        self.lag, self.flying = int(overlap), []
        self.samples: dict[int, list[Sequence]] = {}
        self.number, self.chance = 0, random.Random(0)
        self.truth: dict[tuple[int, int], list[int]] = {}
        """all tokens of a sequence, those of steps in flight included"""
        self.cache = [[()] * PAGE_SIZE for _ in range(PAGES + 1)]
        """what the keys and values of each place were computed of: all tokens up to there"""

    @rule(
        prompt=st.lists(st.integers(3, 5), min_size=1, max_size=30), max_tokens=st.integers(1, 60), n=st.integers(1, 4)
    )
    def add(self, prompt: list[int], max_tokens: int, n: int) -> None:
        self.samples[self.number] = self.scheduler.add(admission(self.number, prompt, max_tokens, n))
        self.number += 1

    @precondition(lambda self: any(not s.finished for group in self.samples.values() for s in group))
    @rule(data=st.data(), whole=st.booleans())
    def stop(self, data: st.DataObject, whole: bool) -> None:
        alive = [s for group in self.samples.values() for s in group if not s.finished]
        sequence = data.draw(st.sampled_from(alive))
        for other in self.samples[sequence.admission.number] if whole else [sequence]:
            self.scheduler.finish(other)

    @rule(steps=st.integers(1, 12))
    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.step()

    @invariant()
    def accounted(self) -> None:
        if hasattr(self, "scheduler"):
            self.scheduler.check()

    def step(self) -> None:
        step = self.scheduler.schedule(drained=not self.flying)
        if step is None:
            self.read(0)
            step = self.scheduler.schedule(drained=True)
        assert step is not None
        assert len(step.decodes) <= SLOTS
        if step.tokens:
            self.check_step(step)
            self.compute(step)
            drawn = [(sequence, self.chance.randrange(3, 6)) for sequence in step.rows]
            for sequence, token in drawn:
                self.truth.setdefault(sequence.key, list(sequence.tokens)).append(token)
            self.flying.append(drawn)
        self.read(self.lag if step.tokens else 0)

    def check_step(self, step: Step) -> None:
        """Every token written this step has a page of its own to go to."""
        assert step.tokens <= max(BATCH, len(step.decodes))
        written = [(s, s.computed - 1) for s in step.decodes]
        written += [(c.sequence, at) for c in step.chunks for at in range(c.start, c.start + c.count)]
        places = [(s.pages[at // PAGE_SIZE], at % PAGE_SIZE) for s, at in written]
        assert len(set(places)) == len(places) and all(page > 0 for page, _ in places)
        assert not {page for page, _ in places} & {target for _, target in self.scheduler._copies}

    def compute(self, step: Step) -> None:
        """Do with the cache what a device would do; whatever is read of it must be the sequence's own."""
        assert len({target for _, target in step.copies}) == len(step.copies), "which of two copies stays is undefined"
        for (_, target), content in zip(step.copies, [self.cache[source][:] for source, _ in step.copies], strict=True):
            self.cache[target] = content
        work = [(s, s.computed - 1, s.computed) for s in step.decodes]
        work += [(c.sequence, c.start, c.start + c.count) for c in step.chunks]
        for sequence, start, end in work:
            tokens = self.truth.get(sequence.key, list(sequence.tokens))
            for at in range(start, end):
                self.cache[sequence.pages[at // PAGE_SIZE]][at % PAGE_SIZE] = tuple(tokens[: at + 1])
        for sequence, _, end in work:
            tokens = self.truth.get(sequence.key, list(sequence.tokens))
            for at in range(end):
                assert self.cache[sequence.pages[at // PAGE_SIZE]][at % PAGE_SIZE] == tuple(tokens[: at + 1])

    def read(self, keep: int) -> None:
        while len(self.flying) > keep:
            for sequence, token in self.flying.pop(0):
                if sequence.finished:
                    continue
                self.scheduler.commit(sequence, token)
                if len(sequence.tokens) >= sequence.limit or self.chance.random() < 0.03:
                    self.scheduler.finish(sequence)

    def teardown(self) -> None:
        """Whatever happened: all requests finish, and an idle scheduler has every page free."""
        if not hasattr(self, "scheduler"):
            return
        for _ in range(20_000):
            if not self.scheduler.has_work and not self.flying:
                break
            self.step()
        self.scheduler.check()
        assert all(s.finished for group in self.samples.values() for s in group)
        assert self.scheduler.pool.available == PAGES


TestTraffic = pytest.mark.timeout(600)(Traffic.TestCase)
TestTraffic.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_pages_that_were_written_before_are_taken_again_first() -> None:
    pool = PagePool(9, 4)
    first = pool.allocate(3)
    assert first is not None
    for _ in range(5):
        pool.release(first)
        again = pool.allocate(3)
        assert again == first
    assert pool.most_used == 3


def test_prefix_is_found_by_content_and_never_whole() -> None:
    pool = PagePool(9, 4)
    text = array("i", range(12))
    pages = pool.allocate(3)
    assert pages is not None
    chain = 0
    for at, page in enumerate(pages):
        chain = pool.publish(page, chain, text[4 * at : 4 * at + 4])
    assert pool.find(text)[0] == pages[:2], "the last token must be computed again"
    assert pool.find(text + array("i", [99]))[0] == pages
    assert pool.find(array("i", [7, *range(1, 12)]))[0] == []
    pool.release(pages)
    assert pool.available == 8
    assert pool.find(text + array("i", [99]))[0] == pages, "idle pages can still be found"
    assert pool.allocate(6) is not None, "five blank pages, then the last page of the idle prefix"
    assert pool.find(text + array("i", [99]))[0] == pages[:2]
    assert pool.allocate(3) is None and pool.available == 2


def test_equal_tokens_under_different_prefixes_are_different_pages() -> None:
    pool = PagePool(9, 2)
    first, second = (pool.allocate(2) for _ in range(2))
    assert first is not None and second is not None
    for pages, head in ((first, 1), (second, 2)):
        chain = pool.publish(pages[0], 0, array("i", [head, head]))
        pool.publish(pages[1], chain, array("i", [5, 5]))
    assert pool.find(array("i", [1, 1, 5, 5, 0]))[0] == first
    assert pool.find(array("i", [2, 2, 5, 5, 0]))[0] == second


def test_whoever_goes_on_inside_a_page_copies_it_or_takes_it() -> None:
    """A branch of 18 tokens with steps of 3: what was computed before it is never computed again, and only who turns
    back copies."""
    scheduler = Scheduler(PagePool(20, 16), 4, 64)
    text, copies = list(range(3, 21)), []
    for number, length in enumerate((18, 21, 24, 20, 33)):  # the fourth turns back to inside the second's step
        tokens = [*text, *range(100, 82 + length)] if length != 20 else [*text, 100, 7]
        [sequence] = scheduler.add(admission(number, tokens, 1, 1))
        step = scheduler.schedule(drained=True)
        assert step is not None
        copies.append((step.chunks[0].start, len(step.copies)))
        scheduler.commit(sequence, 99)
        scheduler.finish(sequence)
    assert copies == [(0, 0), (18, 0), (21, 0), (19, 1), (24, 0)]
    scheduler.check()
    assert scheduler.pool.available == 19


@pytest.mark.parametrize("length, held, tail", [(9, 2, []), (14, 3, [6, 6])])
def test_what_may_be_taken_back_is_written_in_no_page_of_others(length: int, held: int, tail: list[int]) -> None:
    """Preempted behind tokens that it may take back, a sequence comes back, and then takes them back. Meanwhile another
    has left their page, partly filled, or goes on behind it: its keys and values stay as they were."""
    scheduler, size, text = Scheduler(PagePool(12, 8), 4, 64), 8, [3] * length
    cache = [[()] * size for _ in range(12)]
    [first] = scheduler.add(admission(0, text, 40, 1))

    def run(token: int, taken: int = 0, may_be_taken: int = 0) -> None:
        step = scheduler.schedule(drained=True)
        assert step is not None
        for (_, target), content in zip(step.copies, [cache[source][:] for source, _ in step.copies], strict=True):
            cache[target] = content
        work = [(s, s.computed - 1, s.computed) for s in step.decodes]
        work += [(chunk.sequence, chunk.start, chunk.start + chunk.count) for chunk in step.chunks]
        for sequence, start, end in work:
            for at in range(start, end):
                cache[sequence.pages[at // size]][at % size] = tuple(sequence.tokens[: at + 1])
        for sequence, _, end in work:
            for at in range(end):
                assert cache[sequence.pages[at // size]][at % size] == tuple(sequence.tokens[: at + 1])
        for sequence in step.rows:
            scheduler.commit(sequence, *((token, taken, may_be_taken) if sequence is first else (4, 0, 0)))

    run(7)
    for number in range(held):
        run(8 + number, 0, number + 1)
    scheduler._preempt(first, Step())
    scheduler.waiting.clear()
    [second] = scheduler.add(admission(1, [*text, 7, 8, *tail], 9, 1))
    run(0)
    if not tail:
        scheduler.finish(second)
    scheduler.waiting.append(first)
    run(30, held)
    run(31)
    scheduler.add(admission(2, [*text, 7, 8, 5], 20, 1))
    for _ in range(3):
        run(31)
    scheduler.check()


def test_a_fork_that_ends_before_its_page_is_copied_lends_it_to_nobody() -> None:
    scheduler = Scheduler(PagePool(20, 8), 4, 64)
    samples = scheduler.add(admission(0, [3] * 13, 9, 2))
    assert scheduler.schedule(drained=True) is not None
    [(_, target)] = scheduler._copies
    scheduler.finish(samples[1])
    [later] = scheduler.add(admission(1, [3] * 14, 9, 1))
    step = scheduler.schedule(drained=True)
    assert step is not None and step.copies == [], "the copy that nobody needs is not made: its page is another's"
    assert target in later.pages


def test_the_page_that_shares_the_most_is_found() -> None:
    chance = random.Random(1)
    pool = PagePool(200, 8)
    pages = pool.allocate(150)
    assert pages is not None
    known: dict[int, array] = {}
    for page in pages:
        tokens = array("i", [chance.choice((-1, 2, 300)) for _ in range(chance.randint(1, 8))])
        if tokens not in known.values():
            known[page] = tokens
        pool.publish(page, 0, tokens)
    pool.release(pages)
    held: list[int] = []
    for evicted in (0, 60, 20):
        taken = pool.allocate(pool.available - len(known) + evicted)
        assert taken is not None
        held += taken
        known = {page: tokens for page, tokens in known.items() if page not in taken}
        for _ in range(200):
            wanted = [chance.choice((-1, 2, 300)) for _ in range(chance.randint(1, 8))]
            shared = {page: sum(takewhile(bool, map(eq, tokens, wanted))) for page, tokens in known.items()}
            there = {page: chance.randrange(4) for page in known if chance.random() < 0.3}
            page, count = pool.closest(array("i", wanted), 0, there)
            usable = {page: min(equal, there.get(page, equal)) for page, equal in shared.items()}
            assert count == max(usable.values())
            assert not count or usable[page] == count
        pool.check([held])


def test_lost_page_is_named() -> None:
    pool = PagePool(4, 2)
    pages = pool.allocate(2)
    assert pages is not None
    with pytest.raises(EngineDead, match=f"page {pages[0]} has 1 references, the block tables 0"):
        pool.check([pages[1:]])


@pytest.mark.parametrize("page", [-1, 0, 4, 9])
def test_page_that_is_not_the_pools_is_named(page) -> None:
    pool = PagePool(4, 2)
    pages = pool.allocate(2)
    assert pages is not None
    with pytest.raises(EngineDead, match=f"page {page} of a block table"):
        pool.check([[*pages, page]])


def test_oldest_request_is_served_first_and_the_youngest_is_preempted() -> None:
    scheduler = Scheduler(PagePool(PAGES + 1, PAGE_SIZE), SLOTS, BATCH)
    samples = [scheduler.add(admission(i, [3 + i % 3] * 8, 60, 1))[0] for i in range(4)]
    finished: list[int] = []
    for _ in range(2_000):
        step = scheduler.schedule(drained=True)
        assert step is not None
        for sequence in step.rows:
            scheduler.commit(sequence, 4)
            if len(sequence.tokens) >= sequence.limit:
                scheduler.finish(sequence)
                finished.append(sequence.arrival)
    assert scheduler.counters.preemptions > 0
    assert finished == sorted(finished) and len(finished) == len(samples)


def test_a_preempted_sequence_comes_back_to_stay() -> None:
    """Not as soon as its tokens fit, but when each that runs could get one page more: 4 preemptions, not 8."""
    sizes = {13: 53, 27: 11, 15: 19, 5: 44, 25: 46, 6: 33}  # tokens of the prompt and of the answer
    scheduler = Scheduler(PagePool(27, PAGE_SIZE), SLOTS, 64)
    for number, (prompt, most) in enumerate(sizes.items()):
        scheduler.add(admission(number, [number] + [3] * (prompt - 1), most, 1))
    while scheduler.has_work:
        step = scheduler.schedule(drained=True)
        assert step is not None
        for sequence in step.rows:
            scheduler.commit(sequence, 3)
            if len(sequence.tokens) >= sequence.limit:
                scheduler.finish(sequence)
    assert scheduler.counters.preemptions == 4


def test_a_sequence_that_has_all_its_pages_keeps_nobody_waiting() -> None:
    """A pool of exactly two full lengths runs two full lengths."""
    scheduler = Scheduler(PagePool(2 * 4 + 1, PAGE_SIZE), SLOTS, 64)
    for number in range(2):
        scheduler.add(admission(number, [number] + [3] * 12, 3, 1))  # 13 tokens and 3: four pages from the start
    step = scheduler.schedule(drained=True)
    assert step is not None and len(step.rows) == 2
