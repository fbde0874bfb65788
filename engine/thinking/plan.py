"""Thinking formats, and what one request asks of them: the plan that the state machine carries out.

A plan has strings as token ids and limits as numbers, contradictions already refused. `kernels/thinking.py`
carries it out, and `reference_machine.py` in plain Python.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Protocol

from engine.errors import InputError, refuse, shown
from engine.request import MAX_THINKING_BYTES, SamplingParams
from engine.thinking.automaton import MAX_STATES
from engine.thinking.formats import PRESETS, Checkpoint, FormatStrings, choose_format
from kernels.thinking_tables import UNLIMITED, Param, Phase

MAX_TRIGGERS = 16
"""Of a format: every slot has room for as many as the largest has."""


class Encoder(Checkpoint, Protocol):
    """What this file needs of a tokenizer."""

    def encode(self, text: str, specials: bool = False) -> list[int]: ...
    def token_bytes(self, token_id: int) -> bytes: ...


@dataclass(frozen=True)
class TextDelimiters:
    """Delimiters without a special token: recognised in what the ids decode to, however the tokenizer cuts it."""

    opener: str
    triggers: tuple[str, ...]
    """`end` is one of them"""


@dataclass(frozen=True)
class ThinkingFormat:
    """A format in token ids of one tokenizer. `opener` is empty for the format `none`."""

    opener: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    budget_end: tuple[int, ...] = ()
    triggers: tuple[tuple[int, ...], ...] = ()
    """of special tokens; none where the delimiters are plain text"""
    text: TextDelimiters | None = None
    """Set where the delimiters are plain text. The ids above are then one way of many to spell them."""
    answer_opener: str = ""
    answer_end: str = ""

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

    Raises InputError naming the string that breaks a rule: `budget_end` begins with `end`, and a trigger of several
    tokens is a prefix of `end` but for its last. Where opener, end or a trigger begins with no special token they are
    all plain text: `end` is a trigger then, and the character that begins one occurs in none a second time.
    """
    return encoded_format(format_strings(spec, tokenizer), tokenizer)


def encoded_format(strings: FormatStrings, tokenizer: Encoder) -> ThinkingFormat:
    """`strings` in the tokenizer's ids; raises InputError as `resolve_format` does."""
    if not strings.opener:
        return ThinkingFormat()
    name = next((preset for preset, known in PRESETS.items() if known == strings), "custom")

    def is_special(ids: tuple[int, ...]) -> bool:
        return bool(ids) and tokenizer.special_id(tokenizer.token_bytes(ids[0]).decode("utf-8", "replace")) == ids[0]

    opener, end, budget_end, *triggers = (
        tuple(tokenizer.encode(text, specials=True))
        for text in (strings.opener, strings.end, strings.budget_end, *strings.triggers)
    )
    answer = strings.answer_opener, strings.answer_end
    if not all(map(is_special, (opener, end, *triggers))):
        _check_text(strings, name)
        spelled = TextDelimiters(strings.opener, strings.triggers)
        return ThinkingFormat(opener, end, budget_end, (), spelled, *answer)
    if budget_end[: len(end)] != end:
        raise InputError(
            f"thinking format {name}: budget_end {strings.budget_end!r} does not begin with end {strings.end!r}"
        )
    for text, ids in zip(strings.triggers, triggers, strict=True):
        refuse(
            (
                ids[:-1] != end[: len(ids) - 1],
                f"thinking format {name}: trigger {text!r} has several tokens and all but the last are no prefix of "
                f"end {strings.end!r}",
            ),
            (
                _find(budget_end[len(end) :], ids) is not None,
                f"thinking format {name}: budget_end {strings.budget_end!r} holds trigger {text!r}",
            ),
        )
    return ThinkingFormat(opener, end, budget_end, tuple(triggers), None, *answer)


def _check_text(strings: FormatStrings, name: str) -> None:
    """Raises InputError where the delimiters cannot be told apart by their text."""
    delimiters = (strings.opener, *strings.triggers)
    states = sum(len(text.encode("utf-8", "surrogatepass")) for text in delimiters) + 2
    start = f"thinking format {name}, in plain text for this tokenizer: "
    rest = strings.budget_end.removeprefix(strings.end)
    inside = next((t for t in strings.triggers if t in rest), None)
    refuse(
        (
            states > MAX_STATES,
            f"{start}opener and triggers have {states - 2:,} bytes; give at most {MAX_STATES - 2}",
        ),
        (
            strings.end not in strings.triggers,
            f"{start}end {strings.end!r} is none of the triggers; make it one",
        ),
        (
            not strings.budget_end.startswith(strings.end),
            f"{start}budget_end {strings.budget_end!r} does not begin with end {strings.end!r}",
        ),
        (inside is not None, f"{start}budget_end {strings.budget_end!r} holds trigger {inside!r}"),
    )
    for group in ((strings.opener,), strings.triggers):
        begins = {text.encode("utf-8", "surrogatepass")[0] for text in group}
        for text in group:
            if begins & set(text.encode("utf-8", "surrogatepass")[1:]):
                raise InputError(
                    f"{start}the character that begins a delimiter occurs again inside {text!r}; leave out what stands "
                    "before the delimiter proper, or choose another thinking_format"
                )


def format_strings(spec: str | Mapping[str, Any], tokenizer: Encoder) -> FormatStrings:
    """What `spec` names or holds, as text. Raises InputError where it is no format."""
    if spec == "auto":
        spec = choose_format(tokenizer).preset
    if isinstance(spec, str):
        if spec in PRESETS:
            return PRESETS[spec]
        try:
            parsed = json.loads(spec)
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, Mapping):
            raise InputError(f"thinking_format is {shown(spec)}; give auto, {', '.join(PRESETS)} or a JSON object")
        spec = parsed
    needed = {f.name for f in fields(FormatStrings) if f.default is MISSING}
    optional = {f.name for f in fields(FormatStrings)} - needed
    if not needed <= set(spec) <= needed | optional:
        raise InputError(
            f"thinking_format has the fields {shown(list(spec))}; give {sorted(needed)} and, if need be, "
            f"{sorted(optional)}"
        )
    triggers = spec["triggers"]
    listed = triggers if isinstance(triggers, (list, tuple)) else [None]
    strings = [spec["opener"], spec["end"], spec["budget_end"], *listed]
    if any(not isinstance(s, str) or not s for s in strings) or not triggers:
        raise InputError("thinking_format: opener, end and budget_end are strings, triggers a list of them, none empty")
    around = [spec.get(name, "") for name in ("answer_opener", "answer_end")]
    if not all(isinstance(text, str) for text in around):
        raise InputError("thinking_format: answer_opener and answer_end are strings")
    longest = max(len(s.encode("utf-8", "surrogatepass")) for s in [*strings, *around])
    refuse(
        (
            len(listed) > MAX_TRIGGERS,
            f"thinking_format has {len(listed):,} triggers; give at most {MAX_TRIGGERS}",
        ),
        (
            longest > MAX_THINKING_BYTES,
            f"thinking_format has a string of {longest:,} bytes; give at most {MAX_THINKING_BYTES:,}",
        ),
    )
    return FormatStrings(spec["opener"], spec["end"], spec["budget_end"], tuple(triggers), *around)


_ATTRIBUTES = tuple((param, param.name.lower()) for param in Param)


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
    """the token of `budget_end` in which `end` starts"""
    answer_at: int
    """the first token of it that is past `end`"""
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
    def numbers(self) -> list[int]:
        """The request's row of `MachineTables.params`: for each Param the attribute of that name, or a length."""
        lengths = {
            Param.EXTENSION_LEN: len(self.extension),
            Param.END_LEN: len(self.format.end),
            Param.BUDGET_END_LEN: len(self.budget_end),
            Param.OPENER_LEN: len(self.format.opener),
            Param.TEXT_ROW: -1,  # whoever has the tables knows the rows
            Param.OPENER_ROW: -1,
        }
        return [lengths[c] if c in lengths else int(getattr(self, name)) for c, name in _ATTRIBUTES]

    def reading(self, prompt: Sequence[int]) -> Sequence[int]:
        """The tokens of the prompt's end in which a delimiter of plain text may have begun."""
        start = self.match_from - (self.phase is Phase.THINK)  # the opener's last token may hold more than the opener
        return prompt[max(start, len(prompt) - MAX_STATES) :]

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
    newline = tokenizer.encode("\n")
    refuse(
        (not prompt, "the prompt has no tokens; give at least one"),
        (
            len(prompt) >= context,
            f"the prompt has {len(prompt)} tokens and the context holds {context}; shorten the prompt or "
            "raise max_model_len or kv_cache_tokens",
        ),
        (
            format.thinks and len(newline) != 1,
            "this tokenizer has no single token for a newline, which a forced end needs; use thinking_format none",
        ),
        (
            format.max_lead > 0 and params.thinking_extensions,
            "thinking_extensions cannot be used with a trigger of several tokens; use one-token triggers",
        ),
    )
    if not format.thinks:
        for name in _THINKING_FIELDS:
            if getattr(params, name) != getattr(SamplingParams, name):
                raise InputError(
                    f"{name} is set and the thinking format is none; leave it out, or choose a thinking_format like s1"
                )
    extension = tuple(tokenizer.encode(params.thinking_extension_str, specials=True))
    end_str = params.thinking_end_str
    budget_end = format.budget_end if end_str is None else tuple(tokenizer.encode(end_str, specials=True))
    at, answer_at = _end_in(budget_end, format, tokenizer)
    if at is None:
        raise InputError(f"thinking_end_str {end_str!r} does not contain the format's end")
    if format.thinks:
        for name, piece in (
            ("thinking_extension_str", extension),
            ("thinking_end_str", budget_end[:at]),
            ("thinking_end_str", budget_end[answer_at:]),
        ):
            spelled = b"".join(map(tokenizer.token_bytes, piece)) if format.text is not None else b""
            if any(_find(piece, trigger) is not None for trigger in (*format.triggers, *((e,) for e in eos_ids))) or (
                format.text is not None and any(t.encode() in spelled for t in format.text.triggers)
            ):
                raise InputError(f"{name} {getattr(params, name)!r} holds a trigger of the thinking format")
        if (
            format.triggers
            and params.allowed_token_ids is not None
            and (params.min_thinking_tokens or params.thinking_extensions)
        ):
            ends = {*(t[-1] for t in format.triggers), *eos_ids, *params.banned_token_ids}
            if set(params.allowed_token_ids) <= ends:
                name = "min_thinking_tokens" if params.min_thinking_tokens else "thinking_extensions"
                raise InputError(
                    f"allowed_token_ids leaves nothing but ends of thinking, and {name} is set; allow another token"
                )
    truncate = params.thinking_budget_action == "truncate"
    reserve = 0 if truncate or not format.thinks else 1 + len(budget_end) + params.answer_reserve_tokens
    reserve = min(reserve, UNLIMITED - len(extension))  # row 5 adds the two, in int32
    phase, thinking, closing_at, match_from = _scan_prompt(format, prompt, eos_ids, tokenizer)
    max_tokens = UNLIMITED if params.max_tokens is None else params.max_tokens
    if phase in (Phase.THINK, Phase.CLOSING):
        forced = 1 if phase is Phase.THINK and truncate else reserve or len(format.end) - closing_at
        refuse(
            (
                forced > max_tokens,
                f"max_tokens is {max_tokens} and closing the thinking takes {forced} "
                "(a newline, the forced end and answer_reserve_tokens); raise max_tokens",
            ),
            (
                len(prompt) + forced > context,
                f"the prompt's {len(prompt)} tokens and {forced} to close the thinking "
                f"(a newline, the forced end and answer_reserve_tokens) exceed the context of {context}",
            ),
        )
    return ThinkingPlan(
        format=format,
        prompt_len=len(prompt),
        max_tokens=max_tokens,
        max_context=context - len(prompt),
        budget=UNLIMITED if params.thinking_token_budget is None else params.thinking_token_budget,
        min_thinking=params.min_thinking_tokens,
        grace=params.thinking_grace_tokens,
        truncate=truncate,
        eos_stops=params.thinking_eos_policy == "stop",
        ignore_eos=params.ignore_eos,
        reserve=reserve,
        extensions=params.thinking_extensions,
        extension=extension,
        budget_end=budget_end,
        budget_end_at=at,
        answer_at=answer_at,
        newline_id=newline[0] if newline else 0,
        min_answer=params.min_answer_tokens,
        min_tokens=params.min_tokens,
        loop_ngram=params.loop_ngram,
        loop_count=params.loop_count,
        stop_ids=params.stop_token_ids,
        phase=phase,
        thinking=thinking,
        closing_at=closing_at,
        match_from=match_from,
        newline=tokenizer.token_bytes(prompt[-1]).endswith(b"\n"),
    )


def inside_thinking(format: ThinkingFormat, prompt: Sequence[int], eos_ids: Sequence[int], tokenizer: Encoder) -> bool:
    """After the prompt's last EOS the opener occurs and `end` does not follow it."""
    return _scan_prompt(format, prompt, eos_ids, tokenizer)[0] in (Phase.THINK, Phase.CLOSING)


def _end_in(budget_end: tuple[int, ...], format: ThinkingFormat, tokenizer: Encoder) -> tuple[int | None, int]:
    """(the token of `budget_end` in which the format's end starts, the first one past it); (None, 0): not there."""
    if format.text is None:
        at = _find(budget_end, format.end) if format.thinks else 0
        return at, 0 if at is None else at + len(format.end)
    end = b"".join(map(tokenizer.token_bytes, format.end))
    return _tokens_of(end, budget_end, tokenizer) or (None, 0)


def _tokens_of(text: bytes, ids: Sequence[int], tokenizer: Encoder) -> tuple[int, int] | None:
    """(first, last + 1) of the tokens that hold the first occurrence of `text`."""
    spelled, ends = b"", []
    for token in ids:
        spelled += tokenizer.token_bytes(token)
        ends.append(len(spelled))
    start = spelled.find(text)
    return None if start < 0 else (bisect_right(ends, start), bisect_left(ends, start + len(text)) + 1)


def _scan_prompt(
    format: ThinkingFormat, prompt: Sequence[int], eos_ids: Sequence[int], tokenizer: Encoder
) -> tuple[Phase, int, int, int]:
    """(phase, T, tokens of `end` already there, first position a delimiter may start at)."""
    turn = len(prompt)
    while turn > 0 and prompt[turn - 1] not in eos_ids:
        turn -= 1
    if format.text is not None:
        found = _tokens_of(format.text.opener.encode(), prompt[turn:], tokenizer)
        if found is None:
            return Phase.PLAIN, 0, 0, turn
        start = turn + found[1]
        # From the opener's last token on, which may hold the beginning of an end.
        ended = any(_tokens_of(t.encode(), prompt[start - 1 :], tokenizer) for t in format.text.triggers)
        return (Phase.ANSWER, 0, 0, start) if ended else (Phase.THINK, len(prompt) - start, 0, start)
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
    first = pattern[0] if pattern else None
    places = (at for at in range(len(text) - len(pattern) + 1 if pattern else 0) if text[at] == first)
    return next((at for at in places if tuple(text[at : at + len(pattern)]) == tuple(pattern)), None)


_THINKING_FIELDS = (
    "thinking_token_budget",
    "min_thinking_tokens",
    "thinking_extensions",
    "thinking_extension_str",
    "thinking_end_str",
    "thinking_grace_tokens",
    "thinking_budget_action",
    "thinking_eos_policy",
    "min_answer_tokens",
    "answer_reserve_tokens",
    "loop_ngram",
    "loop_count",
)
