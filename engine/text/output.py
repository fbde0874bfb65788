"""The text of one sequence as it grows: split by what each token is part of, streamed, cut at stop strings.

Tokens come with their kind, which the thinking machine decides; text is never searched for delimiters. Three things
may hold text back, each for a bounded length: a character whose bytes are not complete, tokens that may turn out to
begin a delimiter, and text that may turn out to begin a stop string. Cost per token does not depend on length.
"""

from collections import deque
from collections.abc import Container, Sequence
from itertools import pairwise
from typing import NamedTuple

from engine.request import TokenKind
from engine.text.tokenizer import IncrementalDecoder, Tokenizer
from engine.thinking.plan import ThinkingFormat

KINDS = tuple(TokenKind)
"""By value: an index is cheaper than a call of the enumeration."""
_BOUNDARY = {TokenKind.PLAIN: TokenKind.OPENER, TokenKind.REASONING: TokenKind.DELIMITER}
"""Which delimiter may follow each kind of free text."""
_STOPPABLE = (TokenKind.PLAIN, TokenKind.ANSWER)
"""Where stop strings are looked for."""


class Piece(NamedTuple):
    """Text of one kind that can be shown; `forced` where the engine wrote it."""

    text: str
    kind: TokenKind
    forced: bool
    end: int
    """tokens read by the end of it"""


class StopMatcher:
    """Finds the first of several strings in text that comes in pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest, self._firsts = max(map(len, stops)), {stop[0] for stop in stops}
        self.tail = ""
        """The longest suffix of the text that begins one of the strings. Cleared, a match does not reach back."""

    def push(self, text: str) -> tuple[int, str] | None:
        """Read `text`. (characters of it up to the match's end, the string) once one has occurred: the one that ends
        first, of several the longest."""
        whole = self.tail + text
        found = [(whole.index(stop) + len(stop), -len(stop), stop) for stop in self._stops if stop in whole]
        if found:
            end, _, stop = min(found)
            return end - len(self.tail), stop
        starts = range(max(0, len(whole) + 1 - self._longest), len(whole))
        self.tail = ""
        for at in starts:
            if whole[at] in self._firsts and any(stop.startswith(whole[at:]) for stop in self._stops):
                self.tail = whole[at:]
                break
        return None


class AnswerWrapper:
    """Tells the answer from what a model family writes around it, in text that comes in pieces."""

    def __init__(self, opener: str, end: str) -> None:
        """`opener` may stand before the answer, behind white space; `end` anywhere in it. Empty: there is none."""
        self._opener, self._end = opener, end
        self._kept = ""

    def push(self, text: str) -> list[tuple[str, bool]]:
        """What has become certain: (text, whether it is the answer's)."""
        text, self._kept = self._kept + text, ""
        parts: list[tuple[str, bool]] = []
        if self._opener:
            rest = text.lstrip()
            if self._opener.startswith(rest) and rest != self._opener:
                self._kept = text
                return parts
            if rest.startswith(self._opener):
                parts += [(text[: len(text) - len(rest)], True), (self._opener, False)]
                text = rest.removeprefix(self._opener)
            self._opener = ""
        if self._end:
            *whole, text = text.split(self._end)
            parts += [part for before in whole for part in ((before, True), (self._end, False))]
            begun = max((n for n in range(1, len(self._end)) if text.endswith(self._end[:n])), default=0)
            text, self._kept = text[: len(text) - begun], text[len(text) - begun :]
        return [*parts, (text, True)]

    def flush(self) -> list[tuple[str, bool]]:
        """What was kept back, as nothing follows."""
        kept, self._kept = self._kept, ""
        return [(kept, True)]


class OutputStream:
    """Feed it every committed token with `push`, then `finish`; both return the pieces that have become certain.

    `text` is everything decoded, delimiters shown, final EOS not, cut before a stop string. `reasoning` and `answer`
    are its parts by kind, stripped; without thinking, `answer` is the text. They hold what has been returned so far.
    Where thinking is cut inside a character, what there is of it is one U+FFFD in `text`, shown as a DELIMITER, and not
    in `reasoning`; where the text itself ends inside one, `answer` ends as `text` does.
    Stop strings are looked for in PLAIN and ANSWER text that the model sampled after its first `min_tokens` tokens:
    not in forced text, not across it, and not across a change of kind. Once `stop_hit` is set, nothing is added.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        thinking_format: ThinkingFormat | None,
        stop: Sequence[str] = (),
        eos_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        min_tokens: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._hidden = frozenset() if ignore_eos else frozenset(eos_ids)
        form = thinking_format if thinking_format is not None else ThinkingFormat()
        openers = (form.opener,) if form.thinks else ()
        self._delimiters = {TokenKind.PLAIN: openers, TokenKind.REASONING: form.triggers}
        """Token ids of the delimiters that may interrupt a kind."""
        self._ends = (form.end,) if form.thinks else ()
        self._starts = {
            kind: frozenset(t for pattern in patterns for t in pattern[:-1])
            for kind, patterns in self._delimiters.items()
        }
        """Tokens worth a closer look: those that can be part of a delimiter's proper prefix."""
        self._longest = longest = max((len(p) for p in (*openers, *form.triggers, *self._ends)), default=1)
        self._recent: deque[int] = deque(prompt_ids[-longest:], maxlen=longest)
        """The last tokens, prompt included: a delimiter may begin in the prompt."""
        self._held: deque[tuple[int, bool]] = deque()
        """(token id, forced) of tokens that may begin a delimiter."""
        self._decoder = IncrementalDecoder()
        self._matcher = StopMatcher(stop) if stop else None
        wrapped = form.answer_opener or form.answer_end
        self._wrapper = AnswerWrapper(form.answer_opener, form.answer_end) if wrapped else None
        self._count, self._min_tokens = 0, min_tokens
        self._opened = False
        self._texts: list[str] = []
        self._runs: list[tuple[int, TokenKind]] = []
        """where in `_texts` each run of one kind begins"""
        self._new: list[Piece] = []
        """what the call under way has made certain"""
        self.stop_hit: str | None = None
        """The stop string that ended the text."""
        self._begin_kind(TokenKind.PLAIN)

    def push_ordinary(self, token_id: int, kind: int) -> str | None:
        """The short way for almost every token: its text, "" where that is half a character. None, and nothing is read,
        where the token is hidden or near a delimiter, a stop string may come up, or the kind changes: then `push` it.
        """
        if kind != self._kind or not self._plain or self._held or token_id in self._special:
            return None
        self._count += 1
        self._recent.append(token_id)
        text = None if self._decoder.waits else self._tokenizer.whole_text(token_id)
        if text is None:
            text = self._decoder.push(self._tokenizer.token_bytes(token_id))
        if text:
            self._texts.append(text)
        return text

    def push(self, token_id: int, kind: TokenKind, forced: bool = False) -> list[Piece]:
        """Add one committed token. Returns what can be shown now, each piece of one kind."""
        text = self.push_ordinary(token_id, kind)
        if text is not None:
            return [Piece(text, kind, forced, self._count)] if text else []
        if self.stop_hit is not None:
            return []
        self._count += 1
        self._opened |= kind is not TokenKind.PLAIN
        return self._read(token_id, kind, forced)

    def _read(self, token_id: int, kind: TokenKind, forced: bool) -> list[Piece]:
        """What can be shown now that a token has come that is not ordinary."""
        absorbed: list[tuple[int, bool]] = []
        if kind is not self._kind:
            if _BOUNDARY.get(self._kind) is kind:
                absorbed = self._absorb(token_id)
            self._end_kind()
            self._begin_kind(kind)
        self._recent.append(token_id)
        for held_id, held_forced in absorbed:
            self._decode(held_id, held_forced)
        if token_id not in self._hidden or forced:
            self._held.append((token_id, forced))
            self._release(self._prefix_length())
        new = self._take_new()
        # Before the last piece came what earlier tokens had held back.
        return [piece._replace(end=self._count - 1) for piece in new[:-1]] + new[-1:]

    def take_back(self, count: int) -> None:
        """The last `count` tokens are none of the sequence's. Only delimiters of plain text are taken back."""
        raise AssertionError("a special token was taken back")

    def push_all(self, token_ids: Sequence[int], kinds: Sequence[int], forced: Sequence[bool]) -> list[Piece]:
        """As `push` of one token after the other, with text of one kind in fewer pieces: what is neither a delimiter
        nor near one is decoded in one go."""
        pieces: list[Piece] = []
        at, end = 0, len(token_ids)
        while at < end:
            first = at
            if self._plain and not self.holds:
                kind, was_forced, special = self._kind, forced[at], self._special
                while at < end and kinds[at] == kind and forced[at] == was_forced and token_ids[at] not in special:
                    at += 1
            if at - first > 1:
                self._count += at - first
                self._recent.extend(token_ids[max(first, at - self._longest) : at])
                self._emit(self._decoder.push(self._tokenizer.bytes_of(token_ids[first:at])), was_forced)
                pieces += self._take_new()
                continue
            at = first + 1
            pieces += self.push(token_ids[first], KINDS[kinds[first]], forced[first])
        return pieces

    def finish(self) -> list[Piece]:
        """The sequence has ended: what was held back is shown after all."""
        if self.stop_hit is None:
            self._end_kind()
        self._flush_answer()
        return self._take_new()

    @property
    def text(self) -> str:
        """Everything shown."""
        return "".join(self._texts)

    @property
    def reasoning(self) -> str:
        """What was generated inside thinking, stripped."""
        return self._of(TokenKind.REASONING)

    @property
    def answer(self) -> str:
        """What came after `end`, stripped; without thinking, the text."""
        return self._of(TokenKind.ANSWER if self._opened else TokenKind.PLAIN)

    @property
    def said(self) -> str:
        """All text outside thinking, stripped: what a stream of it has shown, also where thinking opened behind it."""
        return self._of(TokenKind.PLAIN, TokenKind.ANSWER)

    @property
    def holds(self) -> bool:
        """Whether tokens are held back."""
        return bool(self._held)

    def _of(self, *kinds: TokenKind) -> str:
        bounds = [*self._runs, (len(self._texts), None)]
        return "".join(t for (a, k), (b, _) in pairwise(bounds) if k in kinds for t in self._texts[a:b]).strip()

    def _prefix_length(self) -> int:
        """How many of the last generated tokens may begin a delimiter."""
        if self._recent[-1] not in self._starts.get(self._kind, ()):
            return 0
        recent = tuple(self._recent)
        return max(
            (k for p in self._delimiters[self._kind] for k in range(1, len(p)) if recent[-k:] == p[:k]), default=0
        )

    def _absorb(self, token_id: int) -> list[tuple[int, bool]]:
        """Take out the held tokens that turn out to be the first tokens of the delimiter which `token_id` goes on."""
        recent = tuple(self._recent)
        for p in (*self._delimiters[self._kind], *self._ends):  # `end` completes half a trigger at the limit
            for k in range(len(p) - 1, 0, -1):
                if p[k] == token_id and recent[-k:] == p[:k]:
                    own = min(k, len(self._held))
                    return [self._held.pop() for _ in range(own)][::-1]
        return []

    def _release(self, keep: int) -> None:
        """Decode held tokens except the last `keep`."""
        while len(self._held) > keep:
            self._decode(*self._held.popleft())

    def _decode(self, token_id: int, forced: bool) -> None:
        self._show(self._decoder.push(self._tokenizer.token_bytes(token_id)), forced)

    def _show(self, text: str, forced: bool) -> None:
        """Emit `text`, or keep back what may begin a stop string."""
        if not text or self.stop_hit is not None:
            return
        sampled = self._kind in _STOPPABLE and not forced and self._count > self._min_tokens
        if self._matcher is None or not sampled:
            self._flush_pending()
            self._emit(text, forced)
            return
        pending, found = self._matcher.tail, self._matcher.push(text)
        if found is None:
            shown = (pending + text).removesuffix(self._matcher.tail)
        else:
            end, self.stop_hit = found
            shown = (pending + text[:end]).removesuffix(self.stop_hit)
        self._emit(shown, False)

    def _flush_pending(self) -> None:
        if self._matcher is not None:
            self._emit(self._matcher.tail, False)
            self._matcher.tail = ""

    def _end_kind(self) -> None:
        """Nothing of this kind follows: half a character and half a stop string are text after all."""
        self._release(0)
        half = self._decoder.flush()
        if half and self._kind is TokenKind.REASONING:
            self._begin_kind(TokenKind.DELIMITER)
        self._show(half, False)
        if self.stop_hit is None:
            self._flush_pending()
        self._flush_answer()

    def _flush_answer(self) -> None:
        if self._wrapper is not None and self._kind is TokenKind.ANSWER:
            self._put_answer(self._wrapper.flush(), False)

    def _begin_kind(self, kind: TokenKind) -> None:
        self._kind = kind
        self._runs.append((len(self._texts), kind))
        self._special: Container[int] = self._hidden | self._starts.get(kind, frozenset())
        """Tokens that may not go out at once: hidden ones, and those near a delimiter of this kind."""
        self._plain = self._matcher is None or (kind not in _STOPPABLE and self.stop_hit is None)
        self._plain = self._plain and (self._wrapper is None or kind is not TokenKind.ANSWER)
        """Whether text of this kind goes out as it comes: nothing is looked for in it, and no stop string has ended it.
        """

    def _emit(self, text: str, forced: bool) -> None:
        if self._wrapper is not None and self._kind is TokenKind.ANSWER:
            self._put_answer(self._wrapper.push(text), forced)
        elif text:
            self._texts.append(text)
            self._new.append(Piece(text, self._kind, forced, self._count))

    def _put_answer(self, parts: Sequence[tuple[str, bool]], forced: bool) -> None:
        for text, is_answer in parts:
            kind = TokenKind.ANSWER if is_answer else TokenKind.DELIMITER
            if text:
                if self._runs[-1][1] is not kind:
                    self._runs.append((len(self._texts), kind))
                self._texts.append(text)
                self._new.append(Piece(text, kind, forced, self._count))

    def _take_new(self) -> list[Piece]:
        new, self._new = self._new, []
        return new
