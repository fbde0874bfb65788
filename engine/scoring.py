"""Scores of the steps of a text: by a reward model, or by how likely a language model finds one token among some.

A position's score depends on nothing behind it. So what was scored is kept by content, and a text that goes on from it
costs its new tokens alone, whose predecessors' keys and values are the page pool's.
"""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

from engine.errors import EngineDead
from engine.messages import Command
from engine.reading import Collected, Found, Reading
from engine.schedule.sequence import Prepared

_KEPT = 1 << 17
"""Scores that are kept, 30 MB with their keys: the longest unused go first."""


@dataclass(frozen=True)
class Scores:
    """One score for each step, and how many tokens were computed for them and were found computed."""

    values: tuple[float, ...]
    computed: int
    reused: int


class ScoreCache:
    """What was scored, by the tokens up to the position and the labels. Safe from any thread."""

    def __init__(self) -> None:
        self._scores: OrderedDict[bytes, float] = OrderedDict()
        self._lock = threading.Lock()

    def keys(self, ids: array, reads: Sequence[int], labels: Sequence[int]) -> list[bytes]:
        """The key of each position of `reads`, ascending."""
        running, keys = blake2b(array("i", [len(labels), *labels]).tobytes(), digest_size=16), []
        for start, end in pairwise((0, *(at + 1 for at in reads))):
            running.update(ids[start:end].tobytes())
            keys.append(running.digest())
        return keys

    def find(self, keys: Sequence[bytes]) -> list[float | None]:
        """The score of each key; None where there is none."""
        with self._lock:
            found = [self._scores.get(key) for key in keys]
            for key in keys:
                if key in self._scores:
                    self._scores.move_to_end(key)
        return found

    def keep(self, key: bytes, score: float) -> None:
        """Enter one, for the one that was not asked for longest."""
        with self._lock:
            self._scores[key] = score
            if len(self._scores) > _KEPT:
                self._scores.popitem(last=False)


class Scoring(Reading[Scores]):
    """Scores that were asked for."""

    def __init__(
        self,
        cache: ScoreCache,
        ids: array,
        reads: Sequence[int],
        labels: Sequence[int],
        tell: Callable[[Command], None],
    ) -> None:
        """`reads` are ascending positions in `ids`."""
        super().__init__(tell)
        self._cache, self._ids, self._reads = cache, ids, tuple(reads)
        self._keys = cache.keys(ids, self._reads, labels)
        self._known = {
            at: score for at, score in zip(self._reads, cache.find(self._keys), strict=True) if score is not None
        }
        self.missing = tuple(at for at in self._reads if at not in self._known)
        """Positions whose scores have to be computed."""
        if not self.missing:
            self.future.set_result(Scores(tuple(self._known[at] for at in self._reads), 0, len(ids)))

    def queued(self, number: int, prepared: Prepared) -> "Scoring":
        """It runs as request `number`."""
        self.number, self.response = number, Collected(prepared, self._collected)
        self._computed = len(prepared.prompt)
        return self

    def _collected(self, found: Found | EngineDead, cached: int) -> None:
        if isinstance(found, EngineDead):
            return self.fail(found)
        for at, key in zip(self._reads, self._keys, strict=True):
            if at in found:
                self._known[at], _ = found[at]
                self._cache.keep(key, self._known[at])
        values = tuple(self._known[at] for at in self._reads)
        computed = self._computed - cached
        self.future.set_result(Scores(values, computed, len(self._ids) - computed))
        return None
