"""What runs next: decodes first, then prefill in chunks; admission by use; preemption by recompute.

Every rank runs this on the same commands and the same tokens, so every rank decides alike: all orders are those of
arrival, never of addresses or clocks.
"""

import heapq
import time
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

from engine.errors import EngineDead
from engine.schedule.page_pool import PagePool
from engine.schedule.sequence import Admission, Sequence


@dataclass(frozen=True)
class Chunk:
    """Part of a prompt (or of a preempted sequence's tokens): `tokens[start : start + count]` of `sequence`."""

    sequence: Sequence
    start: int
    count: int
    samples: tuple[Sequence, ...]
    """Sequences that draw from the last token's logits: none before the end, all forks of the prompt at it."""

    @property
    def reads(self) -> tuple[int, ...]:
        """Positions in it whose hidden states are read."""
        reads = self.sequence.admission.prepared.reads
        return reads[bisect_left(reads, self.start) : bisect_left(reads, self.start + self.count)]


@dataclass
class Step:
    """One step's work. Slots are as they were when it was made; later steps may give them to others."""

    decodes: list[Sequence] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    preempted: list[tuple[Sequence, int]] = field(default_factory=list)
    """(sequence, the slot it had): its machine state must be saved before anything else."""
    admitted: list[Sequence] = field(default_factory=list)
    """Sequences that got a slot: their tables must be written."""
    copies: list[tuple[int, int]] = field(default_factory=list)
    """(from page, to page), before the forward pass: what forks of the step before write on, and what sequences that
    got a slot find of a page."""
    grown: list[Sequence] = field(default_factory=list)
    """Decoding sequences that got pages since the last step."""
    longest: int = 0
    """Keys that the longest decoding sequence sees."""
    keys: int = 0
    """Keys that all decoding sequences see."""

    @property
    def rows(self) -> list[Sequence]:
        """The sequences that draw a token, in the order of the result's rows."""
        return self.decodes + [s for chunk in self.chunks for s in chunk.samples]

    @property
    def scored(self) -> list[tuple[Sequence, int]]:
        """(sequence, position) of every score that the step computes, in the order of the result's."""
        return [read for read in self._reads if read[0].admission.prepared.tops is None]

    @property
    def followed(self) -> list[tuple[Sequence, int]]:
        """(sequence, position) before every token whose log-probability the step computes, likewise."""
        return [read for read in self._reads if read[0].admission.prepared.tops is not None]

    @property
    def _reads(self) -> list[tuple[Sequence, int]]:
        return [(chunk.sequence, at) for chunk in self.chunks for at in chunk.reads]

    @property
    def tokens(self) -> int:
        """Tokens that go through the decoder."""
        return len(self.decodes) + sum(chunk.count for chunk in self.chunks)


@dataclass
class Counters:
    """What happened since the start; sums over sequences."""

    steps: int = 0
    preemptions: int = 0
    prefix_hit_tokens: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    forks: int = 0


class Scheduler:
    """Owns the queues, the slots and the page pool of one rank."""

    def __init__(self, pool: PagePool, max_num_seqs: int, max_num_batched_tokens: int) -> None:
        self.pool, self.counters = pool, Counters()
        self.max_num_batched_tokens = max_num_batched_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: dict[tuple[int, int], Sequence] = {}
        self._num_slots = max_num_seqs
        self._slots = list(range(max_num_seqs))
        self._blocked: tuple[Sequence, int] | None = None
        self._copies: list[tuple[int, int]] = []
        self._grown: list[Sequence] = []
        self._unwritten: dict[int, int] = {}
        """Pages that can be found and that the step in the making writes: how many of their tokens are there before."""
        self._growing: int | None = None
        """Running sequences that may need another page; None: not counted since this step was begun."""
        self._arrivals = 0

    @property
    def has_work(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self.waiting or self.running)

    def add(self, admission: Admission) -> list[Sequence]:
        """Queue a request. Returns its samples; all but the first wait to fork from it."""
        count, prompt = admission.prepared.params.n, admission.prepared.prompt
        samples = [Sequence(admission, index, self._arrivals + index, prompt) for index in range(count)]
        self._arrivals += count
        samples[0].siblings = samples[1:]
        self.waiting.append(samples[0])
        return samples

    def finish(self, sequence: Sequence) -> None:
        """The sequence is over, in whatever state: its pages and slot are free, siblings that wait for it queue."""
        if sequence.finished:
            return
        sequence.finished = True  # a waiting one is dropped when it comes up
        self.waiting.extendleft(reversed([s for s in sequence.siblings if not s.finished]))
        sequence.siblings = []
        if sequence.slot >= 0:
            self._vacate(sequence)

    def schedule(self, drained: bool) -> Step | None:
        """The next step, possibly empty. None: pages ran out, and the caller must first read the steps in flight
        (`drained` says there are none), since a preempted sequence needs all its tokens on the host.
        """
        step = Step(copies=self._copies)
        self._unwritten.clear()
        self._growing = None
        decodes, filling, size, longest, keys = step.decodes, [], self.pool.page_size, 0, 0
        for sequence in list(self.running.values()):
            if not sequence.decoding:
                if sequence.computed < len(sequence.tokens):  # else its scores are on their way
                    filling.append(sequence)  # still in its prompt, or preempted just now
                continue
            length = len(sequence.tokens) + sequence.inflight
            if length >= sequence.limit:
                continue  # over once its last token is read
            if length > len(sequence.pages) * size:
                if not self._grow(sequence, step, drained):
                    return None
                if sequence.slot < 0:
                    continue
            if length > longest:
                longest = length
            keys += length
            decodes.append(sequence)
        if step.preempted:
            decodes = step.decodes = [s for s in decodes if s.slot >= 0]
            filling = [s for s in filling if s.slot >= 0]
            keys = sum(s.length for s in decodes)
        step.longest, step.keys = longest, keys
        budget = self.max_num_batched_tokens - len(step.decodes)
        for sequence in filling:
            if budget > 0:
                budget -= self._chunk(sequence, budget, step)
        while budget > 0 and not step.preempted and (admitted := self._admit(step)) is not None:
            step.admitted.append(admitted)
            budget -= self._chunk(admitted, budget, step)
        for sequence in decodes:
            sequence.computed = len(sequence.tokens) + sequence.inflight
            sequence.inflight += 1
        self._copies = self._copies if self._copies is not step.copies else []
        step.grown, self._grown = self._grown, []
        tokens = step.tokens
        self.counters.steps += bool(tokens)
        self.counters.decode_tokens += len(decodes)
        self.counters.prefill_tokens += tokens - len(decodes)
        return step

    def commit(self, sequence: Sequence, token: int, taken: int = 0, held: int = 0) -> None:
        """The host has read a token that a step in flight drew (-1: it committed none), behind all but the last `taken`
        tokens before it; the last `held` may be taken back in turn."""
        sequence.inflight -= 1
        sequence.held = held
        if taken:
            del sequence.tokens[-taken:]
            # The last token's keys and values are not computed yet: another's may stand in their place.
            sequence.computed = min(sequence.computed, len(sequence.tokens) + (token >= 0) - 1 + sequence.inflight)
        if token >= 0:
            sequence.tokens.append(token)
            if len(sequence.tokens) >= sequence.publish_at:
                self._publish(sequence)

    def check(self) -> None:
        """Raises EngineDead unless pages, slots and sequences account for each other."""
        self.pool.check(s.pages for s in self.running.values())
        slots = sorted([s.slot for s in self.running.values()] + self._slots)
        if slots != list(range(self._num_slots)):
            raise EngineDead(f"slots in use and free are {slots}, not each of {self._num_slots} once")

    def _grow(self, sequence: Sequence, step: Step, drained: bool) -> bool:
        """A page for the next input's keys and values; the youngest give up theirs. False: read what is in flight."""
        while sequence.length > len(sequence.pages) * self.pool.page_size:
            pages = self.pool.allocate(1)
            if pages is not None:
                sequence.pages += pages
                self._grown.append(sequence)
                continue
            if not drained:
                return False
            victim = max(self.running.values(), key=lambda s: s.arrival)
            self._preempt(victim, step)
            if victim is sequence:
                break
        return True

    def _preempt(self, sequence: Sequence, step: Step) -> None:
        self.counters.preemptions += 1
        step.preempted.append((sequence, sequence.slot))
        self._vacate(sequence)
        sequence.computed, sequence.decoding, sequence.published, sequence.chain = 0, False, 0, 0
        self.waiting.appendleft(sequence)

    def _vacate(self, sequence: Sequence) -> None:
        self._publish(sequence)
        start, size = sequence.published * self.pool.page_size, self.pool.page_size
        known = min(sequence.computed, len(sequence.tokens) - sequence.held)
        pending = {target for _, target in self._copies}  # a fork's page, which nothing is in yet
        if start < known and sequence.pages[start // size] not in pending:
            self.pool.publish(sequence.pages[start // size], sequence.chain, sequence.tokens[start:known])
        if not pending.isdisjoint(sequence.pages):  # nobody needs the copy, and the page is another's from now on
            self._copies[:] = [copy for copy in self._copies if copy[1] not in sequence.pages]
        self.pool.release(sequence.pages)
        sequence.pages = []
        heapq.heappush(self._slots, sequence.slot)
        sequence.slot = -1
        del self.running[sequence.key]

    def _admit(self, step: Step) -> Sequence | None:
        """The oldest waiting sequence, if there is a slot, and pages for the tokens it has now. It shares the
        pages that are known, and gets a copy of the one that has most of what follows them."""
        while self.waiting and self.waiting[0].finished:
            self.waiting.popleft()
        if not self.waiting or not self._slots:
            return None
        sequence = self.waiting[0]
        if (
            self.running
            and self._blocked is not None
            and self._blocked[0] is sequence
            and self.pool.available <= self._blocked[1]
        ):
            return None  # nothing was freed since it did not fit; do not look its prompt up again
        reads = sequence.admission.prepared.reads
        # The first token whose hidden state is asked for, or that may be taken back: another's is written in its place.
        needed = reads[0] if reads else len(sequence.tokens) - max(1, sequence.held)
        found, chain = self.pool.find(sequence.tokens[: needed + 1])
        need = self.pool.pages_for(len(sequence.tokens)) - len(found)
        self.pool.share(found)
        begun = len(found) * self.pool.page_size
        rest = sequence.tokens[begun : min(begun + self.pool.page_size, needed)]
        source, copied = self.pool.closest(rest, chain, self._unwritten)
        # One page beyond for each running sequence that may grow: without it a preempted one comes back only to be
        # preempted again.
        if self._growing is None:
            self._growing = sum(map(self._may_grow, self.running.values()))
        if need + self._growing > self.pool.available:
            self.pool.release(found)
            self._blocked = (sequence, self.pool.available)
            return None
        self.waiting.popleft()
        taken = [source] if copied and self.pool.take(source, copied) else []
        pages = taken + (self.pool.allocate(need - len(taken)) or [])
        if copied and not taken:  # read before any page is written, also where the source is one of `pages`
            step.copies.append((source, pages[0]))
        sequence.pages = found + pages
        sequence.computed = begun + copied
        sequence.published, sequence.chain = len(found), chain
        self.counters.prefix_hit_tokens += sequence.computed
        if sequence.saved_state is None:
            sequence.cached = sequence.computed
        self._seat(sequence)
        return sequence

    def _may_grow(self, sequence: Sequence) -> bool:
        return len(sequence.pages) < self.pool.pages_for(sequence.limit)

    def _seat(self, sequence: Sequence) -> None:
        sequence.slot = heapq.heappop(self._slots)
        if sequence.seated_at is None:
            sequence.seated_at = time.monotonic()
            sequence.tokens = sequence.tokens[:]  # waiting samples share the prompt's
        self.running[sequence.key] = sequence
        if self._growing is not None:
            self._growing += self._may_grow(sequence)

    def _chunk(self, sequence: Sequence, budget: int, step: Step) -> int:
        """Schedule up to `budget` of the sequence's missing tokens; returns how many."""
        start, known = sequence.computed, sequence.published
        count = min(budget, len(sequence.tokens) - start)
        sequence.computed += count
        self._publish(sequence)
        if sequence.published > known:
            copied = {target for _, target in step.copies}
            for at, page in enumerate(sequence.pages[known : sequence.published], known):
                self._unwritten[page] = 0 if page in copied else max(0, start - at * self.pool.page_size)
        samples: tuple[Sequence, ...] = ()
        if sequence.computed == len(sequence.tokens) and not sequence.admission.prepared.reads:
            samples = (sequence, *self._fork(sequence, step))
            for sample in samples:
                sample.decoding, sample.inflight = True, 1
        step.chunks.append(Chunk(sequence, start, count, samples))
        return count

    def _fork(self, leader: Sequence, step: Step) -> list[Sequence]:
        """Siblings share the prompt's full pages and get a copy of the last, partial one. Those for which there is
        no slot or page now queue as requests of their own (and find the full pages by content)."""
        forked: list[Sequence] = []
        full = len(leader.tokens) // self.pool.page_size
        siblings = [s for s in leader.siblings if not s.finished]
        for at, sibling in enumerate(siblings):
            partial = self.pool.allocate(len(leader.pages) - full) if self._slots else None
            if partial is None:
                self.waiting.extendleft(reversed(siblings[at:]))
                break
            self.pool.share(leader.pages[:full])
            sibling.pages = leader.pages[:full] + partial
            if partial:
                if self._copies is step.copies:
                    self._copies = []  # for the next step: this one still writes the page
                self._copies.append((leader.pages[full], partial[0]))
            sibling.computed, sibling.cached = leader.computed, leader.cached
            sibling.published, sibling.chain = leader.published, leader.chain
            self._seat(sibling)
            step.admitted.append(sibling)
            forked.append(sibling)
        self.counters.forks += len(forked)
        leader.siblings = []
        return forked

    def _publish(self, sequence: Sequence) -> None:
        """Make pages findable whose tokens are known and whose keys and values are, or are being, computed."""
        size = self.pool.page_size
        full = min(sequence.computed, len(sequence.tokens) - sequence.held) // size
        while sequence.published < full and sequence.slot >= 0:
            start = sequence.published * size
            tokens = sequence.tokens[start : start + size]
            sequence.chain = self.pool.publish(sequence.pages[sequence.published], sequence.chain, tokens)
            sequence.published += 1
        sequence.publish_at = (sequence.published + 1) * size
