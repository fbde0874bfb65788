"""An independent plain-Python reading of the budget-forcing specification: the oracle of this suite.

It is written from the table of section 3, one token at a time, with whole lists where the engine has pointers and
counters. It shares nothing with the engine but the parameter names.
"""

from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import inf

from engine.request import SamplingParams, TokenKind

Ids = tuple[int, ...]
Ranking = Callable[[list[int]], Iterable[int]]
"""Committed ids (prompt included) -> ids from the best to the worst."""


@dataclass(frozen=True)
class Format:
    """A thinking format as token ids; `triggers` without EOS."""

    opener: Ids
    end: Ids
    budget_end: Ids
    triggers: tuple[Ids, ...]


@dataclass(frozen=True)
class Texts:
    """What the specification needs to know of the checkpoint: newline, EOS ids and every token's bytes."""

    newline: int
    eos: Ids
    bytes_of: Sequence[bytes]
    extension: Ids = ()
    end_str: Ids | None = None


@dataclass
class Outcome:
    """What the engine must return."""

    token_ids: list[int] = field(default_factory=list)
    forced: list[int] = field(default_factory=list)
    kinds: list[TokenKind] = field(default_factory=list)
    thinking_tokens: int = 0
    reasoning_tokens: int = 0
    extensions: int = 0
    stop_reason: str | None = None
    finish_reason: str | None = None

    def pieces(self, texts: Texts) -> list[tuple[str, TokenKind]]:
        """What is shown, by kind; the EOS that ended the response is not. Rule 8: what a cut leaves of a character at
        the end of reasoning is no reasoning."""
        ended = self.finish_reason == "stop" and bool(self.token_ids) and self.token_ids[-1] in texts.eos
        ids = self.token_ids[:-1] if ended else self.token_ids
        shown: list[tuple[str, TokenKind]] = []
        for kind, run in groupby(zip(ids, self.kinds, strict=False), lambda pair: pair[1]):
            data = b"".join(texts.bytes_of[token] for token, _ in run)
            text = data.decode(errors="replace")
            if kind is TokenKind.REASONING:
                whole = getincrementaldecoder("utf-8")("replace").decode(data)
                shown += [(whole, kind), (text[len(whole) :], TokenKind.DELIMITER)]
            else:
                shown.append((text, kind))
        return shown

    def text(self, texts: Texts, kind: TokenKind | None = None) -> str:
        """What is shown of one kind, or of all."""
        return "".join(text for text, k in self.pieces(texts) if kind in (None, k))

    def texts(self, texts: Texts) -> tuple[str, str, str]:
        """(text, reasoning, answer) of rule 30."""
        text, reasoning, answer = (self.text(texts, kind) for kind in (None, TokenKind.REASONING, TokenKind.ANSWER))
        if (
            TokenKind.OPENER not in self.kinds
            and TokenKind.REASONING not in self.kinds
            and (TokenKind.DELIMITER not in self.kinds and TokenKind.PLAIN in self.kinds)
        ):
            answer = text
        return text, reasoning.strip(), answer.strip()


def overlap(history: Sequence[int], pattern: Sequence[int], proper: bool = False) -> int:
    """How many of `pattern`'s first ids are the last of `history`, the longest such count."""
    most = min(len(history), len(pattern) - 1 if proper else len(pattern))
    return next((n for n in range(most, 0, -1) if tuple(history[-n:]) == tuple(pattern[:n])), 0)


class Machine:
    """One request's way through the table."""

    def __init__(self, fmt: Format | None, params: SamplingParams, prompt: Sequence[int], texts: Texts, context: int):
        self.fmt, self.params, self.texts, self.context = fmt, params, texts, context
        self.prompt, self.out = list(prompt), Outcome()
        self.phase, self.T, self.prompt_T = "plain", 0, 0
        self.since: list[int] = []  # ids since the last EOS (plain) or since the opener (think): what matchers see
        self.left, self.masked = params.thinking_extensions, False
        self.queue: list[tuple[int, TokenKind]] = []  # the forced string under way
        self.extending = False
        self.answered = 0
        self.ended_here = False
        self.budget = inf if params.thinking_token_budget is None else params.thinking_token_budget
        if fmt is not None:
            self.read_prompt()

    def read_prompt(self) -> None:
        """Section 1: only what follows the last EOS counts; reasoning in the prompt counts in T."""
        last = max((i for i, t in enumerate(self.prompt) if t in self.texts.eos), default=-1)
        for token in self.prompt[last + 1 :]:
            if self.phase == "answer":
                break
            self.since.append(token)
            if self.phase == "plain" and overlap(self.since, self.fmt.opener) == len(self.fmt.opener):
                self.phase, self.since = "think", []
            elif self.phase == "think" and overlap(self.since, self.fmt.end) == len(self.fmt.end):
                self.phase = "answer"
        if self.phase == "think":
            self.T = self.prompt_T = len(self.since)
            done = [t for t in self.fmt.triggers if overlap(self.since, t) == len(t)]
            begun = overlap(self.since, self.fmt.end, proper=True)
            if done and begun:
                self.T = self.prompt_T = self.T - begun
                self.close(self.fmt.end[begun:], "natural")

    @property
    def closer(self) -> Ids:
        return self.fmt.budget_end if self.texts.end_str is None else self.texts.end_str

    @property
    def reserve(self) -> int:
        if self.params.thinking_budget_action == "truncate":
            return 0
        return 1 + len(self.closer) + self.params.answer_reserve_tokens

    def rooms(self) -> tuple[float, float]:
        used = len(self.out.token_ids)
        most = inf if self.params.max_tokens is None else self.params.max_tokens
        return most - used, self.context - len(self.prompt) - used

    def commit(self, token: int, kind: TokenKind, forced: bool = False) -> None:
        if forced:
            self.out.forced.append(len(self.out.token_ids))
        self.out.token_ids.append(token)
        self.out.kinds.append(kind)

    def think(self, token: int, forced: bool = False) -> None:
        self.commit(token, TokenKind.REASONING, forced)
        self.since.append(token)
        self.T += 1

    def close(self, rest: Sequence[int], reason: str) -> None:
        """Begin to write `rest` of `end` (with what stands before or after it); `end` has been written when done."""
        self.phase, self.out.stop_reason = "closing", reason
        self.out.thinking_tokens, self.out.reasoning_tokens = self.T, self.T - self.prompt_T
        end, at = self.fmt.end, None
        for i in range(len(rest)):
            if tuple(rest[i : i + len(end)]) == end:
                at = i
                break
        for i, token in enumerate(rest):
            kind = TokenKind.DELIMITER
            if at is not None and i >= at + len(end):
                kind = TokenKind.ANSWER
            elif at is not None and i < at and not (i == 0 and token == self.texts.newline and self.newline_written):
                kind = TokenKind.REASONING
            self.queue.append((token, kind))
        self.newline_written = False

    newline_written = False

    def leading(self) -> int:
        """Leading tokens of a several-token trigger that are the last of the reasoning."""
        return max((overlap(self.since, t, proper=True) for t in self.fmt.triggers), default=0)

    def reclaim(self, count: int) -> None:
        """`count` tokens of the reasoning turn out to belong to `end`."""
        self.T -= count
        generated = min(count, len(self.out.kinds))
        for i in range(len(self.out.kinds) - generated, len(self.out.kinds)):
            self.out.kinds[i] = TokenKind.DELIMITER
        self.prompt_T -= count - generated

    def finish(self, reason: str) -> None:
        self.out.finish_reason = reason
        if self.phase == "think":
            self.out.thinking_tokens, self.out.reasoning_tokens = self.T, self.T - self.prompt_T

    def step(self, ranking: Iterable[int]) -> None:
        """Commit one token, or finish."""
        if self.phase == "closing" and not self.queue:  # the trigger was all of `end`
            self.phase, self.ended_here = "answer", True
        if min(self.rooms()) <= 0:
            if self.phase == "think":
                assert self.params.thinking_budget_action == "truncate", "thinking ran out of room"
                self.out.stop_reason = "truncated"
            return self.finish("length")
        if self.queue:  # row 1
            token, kind = self.queue.pop(0)
            if self.extending:
                self.think(token, forced=True)
                if not self.queue:
                    self.extending, self.masked = False, True
            else:
                self.commit(token, kind, forced=True)
            return None
        params, eos = self.params, self.texts.eos
        banned = set(params.banned_token_ids)
        allowed = None if params.allowed_token_ids is None else set(params.allowed_token_ids)
        if len(self.out.token_ids) < params.min_tokens and not params.ignore_eos:
            banned |= set(eos)
        ranked = [t for t in ranking if t not in banned and (allowed is None or t in allowed)]
        draw = ranked[0]
        if self.phase != "think":
            return self.outside(ranked)
        fmt = self.fmt
        excluded = {t[-1] for t in fmt.triggers} | set(eos)
        without = next(t for t in ranked if t not in excluded)
        room_tokens, room_context = self.rooms()
        room, reserve = min(room_tokens, room_context), self.reserve
        limit = self.budget <= self.T or room <= reserve
        masked, self.masked = self.masked, False
        if (params.min_thinking_tokens > self.T or masked) and not limit:  # row 3
            return self.think(without)
        is_eos = draw in eos and not params.ignore_eos
        if is_eos and params.thinking_eos_policy == "stop":  # row 4
            self.out.stop_reason = "eos"
            self.finish("stop")
            return self.commit(draw, TokenKind.DELIMITER)
        fired = [t for t in fmt.triggers if overlap([*self.since, draw], t) == len(t)]
        if fired or (is_eos and params.thinking_eos_policy == "end"):
            extension = self.texts.extension
            if (
                not limit
                and self.left > 0
                and self.T + len(extension) < self.budget
                and room > reserve + len(extension)
            ):
                self.left -= 1
                self.out.extensions += 1  # row 5
                if not extension:
                    return self.think(without)
                self.queue = [(t, TokenKind.REASONING) for t in extension]
                self.extending = True
                return self.step(ranking)
            written = max(len(t) for t in fired) - 1 if fired else self.leading()  # row 6
            if room < len(fmt.end) - written and params.thinking_budget_action == "truncate":
                self.out.stop_reason = "truncated"
                return self.finish("length")
            self.reclaim(written)
            natural = draw == fmt.end[written]
            self.close(fmt.end[written + natural :], "eos" if is_eos else "natural")
            if natural:
                return self.commit(draw, TokenKind.DELIMITER)
            return self.step(ranking)
        if limit and params.thinking_budget_action == "truncate":  # row 7
            self.out.stop_reason = "truncated"
            return self.finish("length")
        text = self.texts.bytes_of
        before = (self.out.token_ids or self.prompt)[-1]
        at_newline = text[before].endswith(b"\n")
        if limit and self.budget + params.thinking_grace_tokens > self.T and not at_newline and room > reserve:
            return self.think(draw)  # row 8
        if limit:  # row 9
            reason = "budget" if self.budget <= self.T else "max_tokens" if room_tokens <= reserve else "context"
            written = self.leading()
            if written:
                self.reclaim(written)
                self.close(fmt.end[written:], reason)
            else:
                self.newline_written = not at_newline
                self.close((() if at_newline else (self.texts.newline,)) + self.closer, reason)
            return self.step(ranking)
        return self.think(draw)  # row 10

    def outside(self, ranked: Sequence[int]) -> None:
        """Row 2: plain and answer."""
        params, eos = self.params, self.texts.eos
        token = ranked[0]
        if self.phase == "answer":
            if self.ended_here and self.answered < params.min_answer_tokens and not params.ignore_eos:
                token = next(t for t in ranked if t not in eos)
            self.answered += bool(self.texts.bytes_of[token].decode(errors="replace").strip())
        stops = token in params.stop_token_ids and len(self.out.token_ids) >= params.min_tokens
        self.commit(token, TokenKind.ANSWER if self.phase == "answer" else TokenKind.PLAIN)
        if stops or (token in eos and not params.ignore_eos):
            return self.finish("stop")
        if self.phase == "plain" and self.fmt is not None:
            self.since.append(token)
            opener = self.fmt.opener
            if overlap(self.since, opener) == len(opener) and min(self.rooms()) >= self.reserve:
                self.phase, self.since = "think", []
                for i in range(max(0, len(self.out.kinds) - len(opener)), len(self.out.kinds)):
                    self.out.kinds[i] = TokenKind.OPENER
        return None

    def settle(self) -> None:
        """After a token: a forced string that is done, a length that is reached."""
        if self.phase == "closing" and not self.queue:
            self.phase, self.ended_here = "answer", True
        if self.out.finish_reason is None and self.phase != "think" and min(self.rooms()) <= 0:
            self.finish("length")


def simulate(
    ranking: Ranking, fmt: Format | None, params: SamplingParams, prompt: Sequence[int], texts: Texts, context: int
) -> Outcome:
    """The response to `prompt` where `ranking` is the model."""
    machine = Machine(fmt, params, prompt, texts, context)
    while machine.out.finish_reason is None:
        machine.step(ranking([*prompt, *machine.out.token_ids]))
        machine.settle()
    return machine.out
