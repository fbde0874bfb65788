"""The page pool: who holds which page of the KV cache, and which full pages can be found again by content.

A page holds `page_size` tokens of every layer. It is *blank* (free, nothing worth keeping), *held* (one or more
sequences count on it) or *idle* (free, but its content can still be found). Allocation takes blank pages first and
evicts the longest-idle page after that. A sequence gives its pages back in `Scheduler._vacate`.

Prefix cache: a full page is known by (uid of the page before it, its tokens). A uid is given once and never again, so
equal keys mean equal prefixes by induction; the dictionary compares the tokens themselves, so a hash collision cannot
serve another prompt's keys and values. A page that is not full is known by the tokens it has: nobody shares it, but who
goes on from any of its tokens copies it (`closest`), and computes none of them again. Where it is idle, who goes on
behind its last token takes it as it is (`take`): what is written there leaves what is known of it true.
"""

from array import array
from bisect import bisect_left, insort
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, takewhile
from operator import eq
from types import MappingProxyType

from engine.errors import EngineDead

ROOT = 0
"""The uid before the first page."""
NOTHING: Mapping[int, int] = MappingProxyType({})
_ITEM = array("i").itemsize
"""Bytes of a token in a key."""


class PagePool:
    """Reference-counted pages 1 … num_pages - 1; page 0 is the dummy page and never handed out."""

    def __init__(self, num_pages: int, page_size: int, prefix_caching: bool = True) -> None:
        self.num_pages, self.page_size, self.prefix_caching = num_pages, page_size, prefix_caching
        self.most_used = 0
        """Most pages that ever were not blank at once: from the rest nothing was ever read, nor written."""
        self._references = [0] * num_pages
        self._blank: deque[int] = deque(range(1, num_pages))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._page_of: dict[tuple[int, bytes], int] = {}
        self._key_of: dict[int, tuple[int, bytes]] = {}
        self._uid_of: dict[int, int] = {}
        self._behind: dict[int, list[tuple[bytes, int]]] = {}
        """(tokens, page) of the known pages behind each uid, in order of the tokens' bytes"""
        self._next_uid = ROOT + 1

    @property
    def available(self) -> int:
        """Pages that can be allocated now."""
        return len(self._blank) + len(self._idle)

    @property
    def capacity(self) -> int:
        """Tokens that fit when every page is free."""
        return (self.num_pages - 1) * self.page_size

    def pages_for(self, tokens: int) -> int:
        """Pages that `tokens` take."""
        return -(-tokens // self.page_size)

    def allocate(self, count: int) -> list[int] | None:
        """`count` pages with one reference each, or None (and no change) where there are not so many."""
        if count > self.available:
            return None
        pages = []
        for _ in range(count):
            page = self._blank.popleft() if self._blank else self._evict()
            self._references[page] = 1
            pages.append(page)
        self.most_used = max(self.most_used, self.num_pages - 1 - len(self._blank))
        return pages

    def share(self, pages: Iterable[int]) -> None:
        """One more reference on each page, held or idle."""
        for page in pages:
            if self._references[page] == 0:
                del self._idle[page]
            self._references[page] += 1

    def take(self, page: int, count: int) -> bool:
        """Hold an idle page that is known by `count` tokens, to go on in it. False, and no change: it is not so."""
        if self._references[page] or len(self._key_of[page][1]) != count * _ITEM:
            return False
        self.share([page])
        return True

    def release(self, pages: Sequence[int]) -> None:
        """One reference less on each page. A sequence's last pages become idle first, so they are evicted first."""
        for page in reversed(pages):
            self._references[page] -= 1
            if self._references[page] == 0:
                if page in self._key_of:
                    self._idle[page] = None
                else:
                    self._blank.appendleft(page)  # written before, it goes first: the rest takes no memory

    def find(self, tokens: array) -> tuple[list[int], int]:
        """(pages that hold the longest known prefix of `tokens`, uid of the last).

        At least the last token is left out: its logits must be computed, so its page is never a shared one.
        """
        pages: list[int] = []
        uid = ROOT
        if not self.prefix_caching:
            return pages, uid
        for end in range(self.page_size, len(tokens), self.page_size):
            page = self._page_of.get((uid, tokens[end - self.page_size : end].tobytes()))
            if page is None:
                break
            pages.append(page)
            uid = self._uid_of[page]
        return pages, uid

    def closest(self, tokens: array, uid: int, unwritten: Mapping[int, int] = NOTHING) -> tuple[int, int]:
        """(the known page behind `uid` that has most of the first `tokens`, at most a page of them, and how many it
        has); (0, 0): none has any. Of an `unwritten` page only so many tokens are there. Of all others the one that
        shares the most is the nearest before or behind `tokens` in their order."""
        nearest = (0, 0)
        known = self._behind.get(uid)
        if known:
            wanted = tokens.tobytes()
            at = bisect_left(known, (wanted, 0))
            for places in (range(at - 1, -1, -1), range(at, len(known))):
                for content, page in map(known.__getitem__, places):
                    there = unwritten.get(page)
                    if there != 0:
                        equal = sum(takewhile(bool, map(eq, content, wanted))) // tokens.itemsize
                        found = (page, equal if there is None else min(equal, there))
                        nearest = max(nearest, found, key=lambda one: one[1])
                    if there is None:
                        break
        return nearest

    def publish(self, page: int, parent: int, tokens: array) -> int:
        """Make a page findable, full or not. Returns the uid to publish the next one under.

        Where another page already has this content, that one stays the known one. A page is known by the last of its
        contents.
        """
        if not self.prefix_caching:
            return ROOT
        key = (parent, tokens.tobytes())
        known = self._page_of.get(key)
        if known is None:
            if page in self._key_of:
                self._forget(page)
            known = self._page_of[key] = page
            self._key_of[page] = key
            self._uid_of[page] = self._next_uid
            self._next_uid += 1
            insort(self._behind.setdefault(parent, []), (key[1], page))
        return self._uid_of[known]

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raises EngineDead unless reference counts equal those recomputed from the block tables in use."""
        counted = [0] * self.num_pages
        for page in chain.from_iterable(tables):
            if not 0 < page < self.num_pages:
                raise EngineDead(f"page {page} of a block table is none of the pool's {self.num_pages - 1}")
            counted[page] += 1
        blank, idle = set(self._blank), set(self._idle)
        for page in range(1, self.num_pages):
            places = (counted[page] > 0) + (page in blank) + (page in idle)
            if counted[page] != self._references[page] or places != 1:
                raise EngineDead(
                    f"page {page} has {self._references[page]} references, the block tables {counted[page]}; "
                    f"blank {page in blank}, idle {page in idle}"
                )
        behind = sorted((parent, *known) for parent, pages in self._behind.items() for known in pages)
        if (
            len(blank) != len(self._blank)
            or any(self._page_of[self._key_of[p]] != p for p in self._key_of)
            or behind != sorted((*key, page) for key, page in self._page_of.items())
        ):
            raise EngineDead("the page pool lists a page twice or knows one by two contents")

    def _evict(self) -> int:
        page, _ = self._idle.popitem(last=False)
        self._forget(page)
        return page

    def _forget(self, page: int) -> None:
        parent, content = key = self._key_of.pop(page)
        del self._page_of[key], self._uid_of[page]
        behind = self._behind[parent]
        del behind[bisect_left(behind, (content, page))]
        if not behind:
            del self._behind[parent]
