"""Thinking formats, what one request asks of them, and the state machine in plain Python.

`Machine` is the readable form of the table in `kernels/thinking.py`; tests hold the two against each other token by
token. `ThinkingPlan` is what both read: strings as token ids, limits as numbers, contradictions already refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from engine.errors import InputError
from engine.request import SamplingParams, TokenKind
from kernels.thinking import UNLIMITED, Finish, Phase, Stop, Text


class Encoder(Protocol):
    """What this file needs of a tokenizer."""

    def encode(self, text: str, specials: bool = False) -> list[int]: ...
    def special_id(self, text: str) -> int | None: ...
    def token_bytes(self, token_id: int) -> bytes: ...


@dataclass(frozen=True)
class FormatStrings:
    """How a model family marks thinking, as text. An empty opener means that the model does not think."""

    opener: str
    end: str
    budget_end: str
    triggers: tuple[str, ...]


PRESETS = {
    "s1": FormatStrings(
        "<|im_start|>think", "<|im_start|>answer", "<|im_start|>answer\nFinal Answer:", ("<|im_start|>",)
    ),
    "qwen3": FormatStrings("<think>\n", "</think>", "</think>\n\n", ("</think>",)),
    "deepseek_r1": FormatStrings("<think>\n", "</think>", "</think>\n\n", ("</think>",)),
    "none": FormatStrings("", "", "", ()),
}


@dataclass(frozen=True)
class ThinkingFormat:
    """A format in token ids of one tokenizer. `opener` is empty for the format `none`."""

    opener: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    budget_end: tuple[int, ...] = ()
    triggers: tuple[tuple[int, ...], ...] = ()

    @property
    def thinks(self) -> bool:
        """Whether there is anything to force."""
        return bool(self.opener)

    @property
    def max_lead(self) -> int:
        """Tokens of `end` that stand before the last token of the longest trigger."""
        return max((len(t) - 1 for t in self.triggers), default=0)


def resolve_format(spec: str | Mapping[str, Any], tokenizer: Encoder) -> ThinkingFormat:
    """A preset's name, `auto`, or an object with opener, end, budget_end and triggers (JSON text or a mapping).

    Raises InputError naming the string that breaks a rule: every delimiter begins with a special token, `budget_end`
    begins with `end`, and a trigger of several tokens is a prefix of `end` but for its last.
    """
    if spec == "auto":
        spec = "qwen3" if tokenizer.special_id("<think>") is not None else "s1"
    strings = _format_strings(spec)
    if not strings.opener:
        return ThinkingFormat()
    name = spec if isinstance(spec, str) and spec in PRESETS else "custom"

    def encode(field: str, text: str) -> tuple[int, ...]:
        ids = tuple(tokenizer.encode(text, specials=True))
        if not ids or tokenizer.special_id(tokenizer.token_bytes(ids[0]).decode("utf-8", "replace")) != ids[0]:
            raise InputError(
                f"thinking format {name}: {field} {text!r} does not begin with a special token of this tokenizer; "
                "choose another thinking_format, or none"
            )
        return ids

    opener, end = encode("opener", strings.opener), encode("end", strings.end)
    budget_end = encode("budget_end", strings.budget_end)
    triggers = tuple(encode("trigger", t) for t in strings.triggers)
    if budget_end[: len(end)] != end:
        raise InputError(
            f"thinking format {name}: budget_end {strings.budget_end!r} does not begin with end {strings.end!r}"
        )
    for text, ids in zip(strings.triggers, triggers, strict=True):
        if ids[:-1] != end[: len(ids) - 1]:
            raise InputError(
                f"thinking format {name}: trigger {text!r} has several tokens and all but the last are no prefix of "
                f"end {strings.end!r}"
            )
    rest = budget_end[len(end) :]
    for text, ids in zip(strings.triggers, triggers, strict=True):
        if _find(rest, ids) is not None:
            raise InputError(f"thinking format {name}: budget_end {strings.budget_end!r} holds trigger {text!r}")
    return ThinkingFormat(opener, end, budget_end, triggers)


def _format_strings(spec: str | Mapping[str, Any]) -> FormatStrings:
    if isinstance(spec, str):
        if spec in PRESETS:
            return PRESETS[spec]
        try:
            spec = json.loads(spec)
        except json.JSONDecodeError:
            spec = {"": spec}
        if not isinstance(spec, Mapping) or "" in spec:
            raise InputError(f"thinking_format is {spec!r}; give auto, {', '.join(PRESETS)} or a JSON object")
    names = {f.name for f in fields(FormatStrings)}
    if set(spec) != names:
        raise InputError(f"thinking_format has the fields {sorted(spec)}; give exactly {sorted(names)}")
    triggers = spec["triggers"]
    strings = [spec["opener"], spec["end"], spec["budget_end"]]
    strings += triggers if isinstance(triggers, (list, tuple)) else [None]
    if any(not isinstance(s, str) or not s for s in strings) or not triggers:
        raise InputError("thinking_format: opener, end and budget_end are strings, triggers a list of them, none empty")
    return FormatStrings(spec["opener"], spec["end"], spec["budget_end"], tuple(triggers))


@dataclass(frozen=True)
class ThinkingPlan:
    """What one request asks of the machine; every number is in tokens, UNLIMITED where there is no limit."""

    format: ThinkingFormat
    prompt_len: int
    max_tokens: int
    """min(what was asked, UNLIMITED)"""
    max_context: int
    """context - prompt: tokens that fit behind the prompt"""
    budget: int
    min_thinking: int
    grace: int
    truncate: bool
    eos_stops: bool
    ignore_eos: bool
    reserve: int
    """F + R, 0 under truncate and without thinking"""
    extensions: int
    extension: tuple[int, ...]
    budget_end: tuple[int, ...]
    budget_end_at: int
    """where `end` starts inside `budget_end`"""
    newline_id: int
    min_answer: int
    min_tokens: int
    loop_ngram: int
    loop_count: int
    stop_ids: tuple[int, ...]
    phase: Phase
    """where the prompt leaves the request"""
    thinking: int
    """T at the start: reasoning that the prompt holds"""
    closing_at: int
    """how much of `end` the prompt already holds (phase CLOSING)"""
    match_from: int
    """first position at which a delimiter may start"""
    newline: bool
    """the prompt's text ends in a newline"""

    @property
    def needs_masked(self) -> bool:
        """Whether the masked draw may ever be committed."""
        return self.min_thinking > 0 or self.extensions > 0

    @property
    def loop_run(self) -> int:
        """Tokens in a row that must equal those one loop earlier."""
        return min(self.loop_ngram * (self.loop_count - 1), UNLIMITED) if self.loop_ngram else UNLIMITED


def make_plan(
    params: SamplingParams,
    format: ThinkingFormat,
    prompt: Sequence[int],
    context: int,
    tokenizer: Encoder,
    eos_ids: Sequence[int],
) -> ThinkingPlan:
    """Encode and check what the request asks, against this model and this prompt.

    `context` is min(max_model_len, tokens the page pool holds). Raises InputError naming the field.
    """
    if not prompt:
        raise InputError("the prompt has no tokens; give at least one")
    if len(prompt) >= context:
        raise InputError(f"the prompt has {len(prompt)} tokens and the context holds {context}; shorten the prompt or "
                         "raise max_model_len or kv_cache_tokens")
    if not format.thinks:
        _refuse_thinking_fields(params)
    newline = tokenizer.encode("\n")
    if format.thinks and len(newline) != 1:
        raise InputError("this tokenizer has no single token for a newline, which a forced end needs; "
                         "use thinking_format none")
    several = format.max_lead > 0
    if several and params.thinking_extensions:
        raise InputError("thinking_extensions cannot be used with a trigger of several tokens; use one-token triggers")
    extension = tuple(tokenizer.encode(params.thinking_extension_str, specials=True))
    budget_end, at = format.budget_end, 0
    if params.thinking_end_str is not None:
        budget_end = tuple(tokenizer.encode(params.thinking_end_str, specials=True))
        found = _find(budget_end, format.end)
        if found is None:
            raise InputError(f"thinking_end_str {params.thinking_end_str!r} does not contain the format's end")
        at = found
    if format.thinks:
        beyond = budget_end[:at], budget_end[at + len(format.end) :]
        for field, pieces in (("thinking_extension_str", (extension,)), ("thinking_end_str", beyond)):
            for trigger in (*format.triggers, *((e,) for e in eos_ids)):
                if any(_find(piece, trigger) is not None for piece in pieces):
                    raise InputError(f"{field} {getattr(params, field)!r} holds a trigger of the thinking format")
    truncate = params.thinking_budget_action == "truncate"
    reserve = 0 if truncate or not format.thinks else 1 + len(budget_end) + params.answer_reserve_tokens
    reserve = min(reserve, UNLIMITED - len(extension))  # row 5 adds the two, in int32
    phase, thinking, closing_at, match_from = _scan_prompt(format, prompt, eos_ids)
    max_tokens = UNLIMITED if params.max_tokens is None else params.max_tokens
    if phase in (Phase.THINK, Phase.CLOSING):
        forced = reserve or len(format.end) - closing_at
        if phase is Phase.THINK and truncate:
            forced = 1
        if forced > max_tokens:
            raise InputError(f"max_tokens is {max_tokens} and closing the thinking takes {forced} "
                             "(a newline, the forced end and answer_reserve_tokens); raise max_tokens")
        if len(prompt) + forced > context:
            raise InputError(f"the prompt's {len(prompt)} tokens and {forced} to close the thinking "
                             f"(a newline, the forced end and answer_reserve_tokens) exceed the context of {context}")
    return ThinkingPlan(
        format=format, prompt_len=len(prompt), max_tokens=max_tokens, max_context=context - len(prompt),
        budget=UNLIMITED if params.thinking_token_budget is None else params.thinking_token_budget,
        min_thinking=params.min_thinking_tokens, grace=params.thinking_grace_tokens, truncate=truncate,
        eos_stops=params.thinking_eos_policy == "stop", ignore_eos=params.ignore_eos, reserve=reserve,
        extensions=params.thinking_extensions, extension=extension, budget_end=budget_end, budget_end_at=at,
        newline_id=newline[0] if newline else 0, min_answer=params.min_answer_tokens, min_tokens=params.min_tokens,
        loop_ngram=params.loop_ngram, loop_count=params.loop_count, stop_ids=params.stop_token_ids,
        phase=phase, thinking=thinking, closing_at=closing_at, match_from=match_from,
        newline=tokenizer.token_bytes(prompt[-1]).endswith(b"\n"),
    )  # fmt: skip


def inside_thinking(format: ThinkingFormat, prompt: Sequence[int], eos_ids: Sequence[int]) -> bool:
    """After the prompt's last EOS the opener occurs and `end` does not follow it."""
    return _scan_prompt(format, prompt, eos_ids)[0] in (Phase.THINK, Phase.CLOSING)


def _scan_prompt(
    format: ThinkingFormat, prompt: Sequence[int], eos_ids: Sequence[int]
) -> tuple[Phase, int, int, int]:
    """(phase, T, tokens of `end` already there, first position a delimiter may start at)."""
    turn = len(prompt)
    while turn > 0 and prompt[turn - 1] not in eos_ids:
        turn -= 1
    opener = _find(prompt[turn:], format.opener) if format.thinks else None
    if opener is None:
        return Phase.PLAIN, 0, 0, turn
    start = turn + opener + len(format.opener)
    reasoning = prompt[start:]
    if _find(reasoning, format.end) is not None:
        return Phase.ANSWER, 0, 0, start
    for at in range(len(format.end) - 1, 0, -1):
        stands = tuple(reasoning[-at:]) == format.end[:at]
        if stands and any(len(t) <= at and t == format.end[: len(t)] for t in format.triggers):
            return Phase.CLOSING, len(reasoning) - at, at, start
    return Phase.THINK, len(reasoning), 0, start


def _find(text: Sequence[int], pattern: Sequence[int]) -> int | None:
    """First position of `pattern` in `text`; None for an empty pattern or no match."""
    for at in range(len(text) - len(pattern) + 1 if pattern else 0):
        if tuple(text[at : at + len(pattern)]) == tuple(pattern):
            return at
    return None


_THINKING_FIELDS = (
    "thinking_token_budget", "min_thinking_tokens", "thinking_extensions", "thinking_extension_str", "thinking_end_str",
    "thinking_grace_tokens", "thinking_budget_action", "thinking_eos_policy", "min_answer_tokens",
    "answer_reserve_tokens", "loop_ngram", "loop_count",
)  # fmt: skip


def _refuse_thinking_fields(params: SamplingParams) -> None:
    defaults = SamplingParams()
    for name in _THINKING_FIELDS:
        if getattr(params, name) != getattr(defaults, name):
            raise InputError(f"{name} is set and the thinking format is none; leave it out or choose a thinking_format")


@dataclass(frozen=True)
class Commit:
    """One transition: the token (None: nothing was committed), what it is part of, who wrote it, and what is over."""

    token: int | None
    kind: TokenKind
    forced: bool
    finish: Finish
    stop_reason: Stop
    thinking: int
    extensions: int


class Machine:
    """The twin of `kernels.thinking.thinking_step`: one request, plain Python, one method per idea."""

    def __init__(self, plan: ThinkingPlan, prompt: Sequence[int], eos_ids: Sequence[int], ends_line: Sequence[bool]):
        self.plan, self.eos_ids, self.ends_line = plan, tuple(eos_ids), ends_line
        self.history = list(prompt)
        self.phase, self.thinking, self.match_from = plan.phase, plan.thinking, plan.match_from
        self.finish, self.stop_reason = Finish.RUNNING, Stop.NONE
        self.budget, self.extensions_left, self.extensions_used = plan.budget, plan.extensions, 0
        self.forced: Text | None = None
        self.forced_pos, self.mask_next, self.newline = 0, False, plan.newline
        self.closed, self.answered, self.loop_run, self.end_requested = False, 0, 0, False
        if self.phase is Phase.CLOSING:
            self.forced, self.forced_pos, self.stop_reason = Text.END, plan.closing_at, Stop.NATURAL

    @property
    def committed(self) -> int:
        """Tokens written in this response, forced ones included."""
        return len(self.history) - self.plan.prompt_len

    @property
    def eos_banned(self) -> bool:
        """Whether the next draw must not be an EOS (`min_tokens`, `min_answer_tokens`)."""
        if self.plan.ignore_eos:
            return False
        answers = self.phase is Phase.ANSWER and self.closed and self.answered < self.plan.min_answer
        return answers or self.committed < self.plan.min_tokens

    def step(self, draw: int, masked: int, bad: bool = False) -> Commit:
        """Commit one token. `masked` is the draw with triggers and EOS excluded; `bad`: nothing could be drawn."""
        plan = self.plan
        if self.finish is not Finish.RUNNING:
            return self._report(None, TokenKind.PLAIN, False)
        if self.forced is not None:  # 1
            return self._write(self.forced, self.forced_pos)
        if bad:
            self.finish = Finish.ERROR
            return self._report(None, TokenKind.PLAIN, False)
        eos = draw in self.eos_ids and not plan.ignore_eos
        if self.phase is not Phase.THINK:  # 2
            return self._speak(draw, eos)
        room = min(plan.max_tokens, plan.max_context) - self.committed
        over_budget, over_room = self.thinking >= self.budget, room <= plan.reserve
        asked = self.end_requested or self.loop_run >= plan.loop_run
        limit = over_budget or over_room or asked
        completed = [len(t) - 1 for t in plan.format.triggers if draw == t[-1] and self._stands(t[:-1])]
        half = max((k for t in plan.format.triggers for k in range(1, len(t)) if self._stands(t[:k])), default=0)
        lead = max(completed) if completed else half
        trigger = bool(completed) or (eos and not plan.eos_stops)
        closes = not plan.truncate or room >= len(plan.format.end) - lead
        size = len(plan.extension)
        if not limit and (self.thinking < plan.min_thinking or self.mask_next):  # 3
            return self._think(masked)
        if eos and plan.eos_stops:  # 4
            self.finish, self.stop_reason = Finish.STOP, Stop.EOS
            return self._commit(draw, TokenKind.REASONING, False)
        fits = self.thinking < self.budget - size and room > plan.reserve + size
        if trigger and not limit and self.extensions_left > 0 and fits:  # 5
            self.extensions_left -= 1
            self.extensions_used += 1
            return self._write(Text.EXTENSION, 0) if size else self._think(masked)
        if trigger and closes:  # 6
            self.stop_reason = Stop.NATURAL if completed else Stop.EOS
            self.thinking -= lead
            return self._write(Text.END, lead, draw)
        if trigger or (limit and plan.truncate):  # 7
            self.finish, self.stop_reason = Finish.LENGTH, Stop.TRUNCATED
            return self._report(None, TokenKind.REASONING, False)
        in_grace = self.thinking - plan.grace < self.budget and not self.newline
        if limit and not over_room and not asked and in_grace:  # 8
            return self._think(draw)
        if limit:  # 9
            self.stop_reason = self._limit_reason(over_budget, over_room)
            if half:  # half a trigger is completed as `end`, without budget_end's extra text
                self.thinking -= half
                return self._write(Text.END, half)
            if self.newline:
                return self._write(Text.BUDGET_END, 0)
            self.phase, self.forced, self.forced_pos = Phase.CLOSING, Text.BUDGET_END, 0
            return self._commit(plan.newline_id, TokenKind.DELIMITER, True)
        return self._think(draw)  # 10

    def _limit_reason(self, over_budget: bool, over_room: bool) -> Stop:
        if self.end_requested:
            return Stop.CLIENT
        if over_budget:
            return Stop.BUDGET
        if over_room:
            short = self.plan.max_tokens - self.committed <= self.plan.reserve
            return Stop.MAX_TOKENS if short else Stop.CONTEXT
        return Stop.LOOP

    def _stands(self, pattern: Sequence[int]) -> bool:
        start = len(self.history) - len(pattern)
        return start >= self.match_from and tuple(self.history[start:]) == tuple(pattern)

    def _speak(self, draw: int, eos: bool) -> Commit:
        plan, opener = self.plan, self.plan.format.opener
        self.answered += self.closed
        if eos or (draw in plan.stop_ids and self.committed >= plan.min_tokens):
            self.finish = Finish.STOP
        room = min(plan.max_tokens, plan.max_context) - self.committed
        opens = self.phase is Phase.PLAIN and bool(opener) and room - 1 >= plan.reserve
        if opens and draw == opener[-1] and self._stands(opener[:-1]):
            self.phase, self.match_from = Phase.THINK, len(self.history) + 1
            return self._commit(draw, TokenKind.OPENER, False)
        kind = TokenKind.ANSWER if self.phase is Phase.ANSWER else TokenKind.PLAIN
        return self._commit(draw, kind, False)

    def _think(self, token: int) -> Commit:
        self.thinking += 1
        self.mask_next = False
        return self._commit(token, TokenKind.REASONING, False)

    def _write(self, text: Text, at: int, draw: int | None = None) -> Commit:
        """Write one token of a forced string; it is not forced where the draw happens to be the first of them."""
        plan = self.plan
        strings = {Text.EXTENSION: plan.extension, Text.END: plan.format.end, Text.BUDGET_END: plan.budget_end}
        string = strings[text]
        kind = TokenKind.REASONING if text is Text.EXTENSION else TokenKind.DELIMITER
        if text is Text.BUDGET_END and at < plan.budget_end_at:
            kind = TokenKind.REASONING
        elif text is Text.BUDGET_END and at >= plan.budget_end_at + len(plan.format.end):
            kind = TokenKind.ANSWER
        over = at + 1 == len(string)
        self.forced, self.forced_pos = (None, 0) if over else (text, at + 1)
        if text is Text.EXTENSION:
            self.thinking += 1
            self.mask_next = self.mask_next or over
        else:
            self.phase = Phase.ANSWER if over else Phase.CLOSING
            self.closed = self.closed or over
        return self._commit(string[at], kind, string[at] != draw)

    def _commit(self, token: int, kind: TokenKind, forced: bool) -> Commit:
        plan = self.plan
        before = len(self.history) - plan.loop_ngram
        same = plan.loop_ngram > 0 and before >= self.match_from and self.history[before] == token
        self.loop_run = self.loop_run + 1 if same and self.phase is Phase.THINK else 0
        self.history.append(token)
        self.newline = bool(self.ends_line[token])
        if self.committed >= min(plan.max_tokens, plan.max_context) and self.finish is Finish.RUNNING:
            self.finish = Finish.LENGTH
            if self.phase is Phase.THINK:
                self.stop_reason = Stop.TRUNCATED
        return self._report(token, kind, forced)

    def _report(self, token: int | None, kind: TokenKind, forced: bool) -> Commit:
        return Commit(token, kind, forced, self.finish, self.stop_reason, self.thinking, self.extensions_used)
