"""The text of a sequence whose delimiters are plain text: they are found in the bytes of the tokens.

The thinking machine has decided already; the kind of a token says in which one a delimiter is complete. Here its bytes
are told from those around it, and what may still be taken back is not shown.
"""

from collections import deque
from collections.abc import Container, Sequence

from engine.request import TokenKind
from engine.text.output import OutputStream, Piece
from engine.text.tokenizer import Tokenizer
from engine.thinking.plan import TextDelimiters, ThinkingFormat

_AFTER = {TokenKind.OPENER: TokenKind.REASONING, TokenKind.DELIMITER: TokenKind.ANSWER}
"""What follows each delimiter."""


class _Near:
    """The tokens that may begin a delimiter, and those that are not shown."""

    def __init__(self, tokenizer: Tokenizer, hidden: frozenset[int], begins: frozenset[int]) -> None:
        self._bytes, self._hidden, self._begins = tokenizer.token_bytes, hidden, begins
        self._known: dict[int, bool] = {}

    def __contains__(self, token_id: object) -> bool:
        assert isinstance(token_id, int)
        known = self._known.get(token_id)
        if known is None:
            known = token_id in self._hidden or not self._begins.isdisjoint(self._bytes(token_id))
            self._known[token_id] = known
        return known


class SpelledStream(OutputStream):
    """As `OutputStream`, for a format whose delimiters are plain text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_ids: Sequence[int],
        thinking_format: ThinkingFormat,
        text: TextDelimiters,
        stop: Sequence[str] = (),
        eos_ids: Sequence[int] = (),
        ignore_eos: bool = False,
        min_tokens: int = 0,
    ) -> None:
        """`text` is the format's; the rest as for `OutputStream`."""
        triggers = tuple(trigger.encode() for trigger in text.triggers)
        self._patterns = {
            TokenKind.PLAIN: (text.opener.encode(),),
            TokenKind.OPENER: (text.opener.encode(),),
            TokenKind.REASONING: triggers,
            TokenKind.DELIMITER: triggers,
        }
        hidden = frozenset() if ignore_eos else frozenset(eos_ids)
        self._near: dict[TokenKind, Container[int]] = {
            kind: _Near(tokenizer, hidden, frozenset(p[0] for p in self._patterns[kind]))
            for kind in (TokenKind.PLAIN, TokenKind.REASONING)
        }
        self._spelled: deque[tuple[bytes, bool]] = deque()
        """(bytes, forced) of the last tokens, in which a delimiter may have begun"""
        super().__init__(tokenizer, prompt_ids, thinking_format, stop, eos_ids, ignore_eos, min_tokens)
        every = (text.opener.encode(), *triggers)
        end = tokenizer.bytes_of(prompt_ids[-max(map(len, every)) :])
        self._prompt = max(
            (end[end.rfind(p[:1]) :] for p in every if p[:1] in end and p.startswith(end[end.rfind(p[:1]) :])),
            key=len,
            default=b"",
        )
        """The beginning of a delimiter at the end of the prompt, until it is known whether it is one."""

    def push_ordinary(self, token_id: int, kind: int) -> str | None:
        """As that of `OutputStream`."""
        return None if self.holds else super().push_ordinary(token_id, kind)

    def _read(self, token_id: int, kind: TokenKind, forced: bool) -> list[Piece]:
        if kind is TokenKind.DELIMITER and self._kind is TokenKind.PLAIN:
            self._turn(TokenKind.REASONING)
        if kind in (TokenKind.PLAIN, TokenKind.REASONING, TokenKind.ANSWER) and kind is not self._kind:
            self._turn(kind)
        if token_id not in self._hidden or forced:
            if kind is TokenKind.DELIMITER and forced and not self._spelled and self._decoder.waits:
                self._turn(TokenKind.REASONING)  # a character was cut
            self._spelled.append((self._tokenizer.token_bytes(token_id), forced))
            if kind in _AFTER:
                self._split(kind, forced)
            else:
                self._release_all_but(self._begun())
        return [piece._replace(end=self._count - len(self._spelled)) for piece in self._take_new()]

    def take_back(self, count: int) -> None:
        """As that of `OutputStream`."""
        for _ in range(count):
            self._spelled.pop()
        self._count -= count

    def finish(self) -> list[Piece]:
        """As that of `OutputStream`."""
        if self._closing:
            self._turn(TokenKind.DELIMITER)
        self._release_all_but(0)
        return super().finish()

    @property
    def holds(self) -> bool:
        return bool(self._spelled or self._prompt)

    def _begin_kind(self, kind: TokenKind) -> None:
        super()._begin_kind(kind)
        self._closing = False
        """Whether tokens of a delimiter that is not complete are among `_spelled`."""
        self._special = self._near.get(kind, self._hidden)

    def _turn(self, kind: TokenKind) -> None:
        self._end_kind()
        self._begin_kind(kind)

    def _split(self, kind: TokenKind, forced: bool) -> None:
        """The last token is a delimiter's. Where it is complete, tell it from what stands before and behind it."""
        before = len(self._prompt)
        spelled = self._prompt + b"".join(data for data, _ in self._spelled)
        found = [(spelled.index(p) + len(p), p) for p in self._patterns[kind] if p in spelled]
        self._closing = not found
        if not found:
            return
        end, pattern = min(found)
        start = end - len(pattern)
        if forced and spelled[before:start].isspace():
            start = before  # the newline before a forced end
        self._spelled.clear()
        self._prompt = b""
        self._feed(spelled[before:start], forced)
        self._turn(kind)
        self._feed(spelled[max(start, before) : end], forced)
        self._turn(_AFTER[kind])
        if end < len(spelled):
            self._spelled.append((spelled[end:], forced))
            self._release_all_but(self._begun())

    def _begun(self) -> int:
        """How many of the last tokens a delimiter that has begun touches."""
        patterns = self._patterns.get(self._kind, ())
        spelled = self._prompt + b"".join(data for data, _ in self._spelled)
        begin = max((spelled.rfind(p[:1]) for p in patterns), default=-1)
        if begin < 0 or not any(p.startswith(spelled[begin:]) for p in patterns):
            return 0
        size, count = len(spelled) - begin, 0
        for data, _ in reversed(self._spelled):
            if size <= 0:
                break
            size, count = size - len(data), count + 1
        return count

    def _release_all_but(self, keep: int) -> None:
        """Show all but the last `keep` of the tokens that were held back."""
        if keep == 0 or len(self._spelled) > keep:
            self._prompt = b""
        while len(self._spelled) > keep:
            self._feed(*self._spelled.popleft())

    def _feed(self, data: bytes, forced: bool) -> None:
        self._show(self._decoder.push(data), forced)
