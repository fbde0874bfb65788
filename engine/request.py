"""What travels between a caller and the engine: prompts, sampling parameters, outputs and deltas."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum
from typing import Any, Literal, NamedTuple

from engine.errors import InputError, is_number, is_whole, shown

Prompt = str | Sequence[int] | Mapping[str, Any]
"""Text (rendered by the chat template), token ids (taken as they are), {"messages": [...]}, or {"text": ...}: text
that is taken as it is, special tokens in it as such."""

FinishReason = Literal["stop", "length", "abort", "error", "pause"]
StopReason = Literal["natural", "eos", "budget", "max_tokens", "context", "truncated", "loop", "client"]

MAX_STOP_STRINGS, MAX_STOP_BYTES, MAX_STOP_IDS, MAX_LOGIT_BIAS = 16, 256, 1024, 1024
MAX_THINKING_BYTES = 4096
"""Of the strings that the machine writes: every slot has room for the longest that came."""
_INT32_MAX = 2**31 - 1


class TokenKind(IntEnum):
    """What a committed token is part of; decided by the thinking machine, never by searching text."""

    PLAIN = 0
    """Outside thinking, before any: format `none`, or no opener yet."""
    OPENER = 1
    """Part of an opener that the model wrote itself."""
    REASONING = 2
    """Inside thinking, extensions included."""
    DELIMITER = 3
    """Part of `end`, and the newline forced before it; as a piece of text also what a cut left of a character."""
    ANSWER = 4
    """After `end`; also what `budget_end` holds beyond `end`."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to sample one request. Thinking fields follow the budget-forcing specification, section 2.

    Raises InputError, naming the field, where a value is impossible in itself. What depends on the model
    (formats, lengths, the context) is checked when the request is made.
    """

    n: int = 1
    """Samples per prompt, at most the engine's `max_samples`."""
    seed: int | None = None
    """Seed of the random draws, below 2^63; None: the engine's."""
    max_tokens: int | None = None
    """Most tokens of a response, forced ones included; None: as many as the context holds."""
    temperature: float = 0.0
    """0, and what is below 1e-5, is greedy."""
    top_k: int = 0
    """Draw from the k likeliest tokens; 0 or -1: from all."""
    top_p: float = 1.0
    """Draw from the likeliest tokens that hold this much probability together."""
    min_p: float = 0.0
    """Draw from tokens with at least this share of the likeliest one's probability."""
    repetition_penalty: float = 1.0
    """Divides (positive) or multiplies (negative) the logits of tokens seen in prompt or output; 0.01 to 100."""
    presence_penalty: float = 0.0
    """Taken off the logit of every token that the output holds."""
    frequency_penalty: float = 0.0
    """Taken off a token's logit once per occurrence in the output."""
    logit_bias: Mapping[int, float] | None = None
    """Added to the logits of these token ids, at most 1,024."""
    allowed_token_ids: tuple[int, ...] | None = None
    """Only these are drawn; None: all."""
    banned_token_ids: tuple[int, ...] = ()
    """These are never drawn."""
    min_tokens: int = 0
    """Before this many tokens neither EOS nor a stop ends the response."""
    ignore_eos: bool = False
    """EOS is an ordinary token."""
    stop: tuple[str, ...] = ()
    """Up to 16 strings of 256 bytes that end the response outside thinking; the text is cut before them."""
    stop_token_ids: tuple[int, ...] = ()
    """Up to 1,024 token ids that end the response outside thinking."""
    pause: tuple[str, ...] = ()
    """Up to 16 strings of 256 bytes behind which the response pauses before the answer, finish_reason `pause`: prompt
    and ids, sent as a prompt, go on as if nothing had happened."""
    pause_tokens: int = 0
    """Pauses after so many tokens too; 0: does not. Neither pauses inside what the engine writes."""
    logprobs: int | None = None
    """Report each token's log-probability and so many alternatives, at most the engine's `max_logprobs`; None: none."""

    continue_final_message: bool | None = None
    """A last message of the assistant's is continued, not followed by a new turn; None: where messages end in one."""
    thinking_format: str | Mapping[str, Any] | None = None
    """How thinking is marked; None: the engine's."""
    thinking_token_budget: int | None = None
    """Most thinking tokens; None: no limit but max_tokens and the context."""
    min_thinking_tokens: int = 0
    """Thinking does not end before this many tokens."""
    thinking_extensions: int = 0
    """How many ends of thinking are replaced by the extension."""
    thinking_extension_str: str = "Wait"
    """What replaces them, up to 4,096 bytes; empty: the likeliest token that does not end thinking."""
    thinking_end_str: str | None = None
    """Written at the budget instead of the format's own, up to 4,096 bytes; must contain its end."""
    thinking_grace_tokens: int = 0
    """Past the budget, at most this many tokens to finish the line."""
    thinking_budget_action: Literal["force_end", "truncate"] = "force_end"
    """At the limit: close thinking and answer, or finish the response."""
    thinking_eos_policy: Literal["end", "stop"] = "end"
    """EOS in thinking: an end of thinking, or of the response."""
    min_answer_tokens: int = 1
    """After thinking, EOS is not drawn before this many tokens that are more than white space."""
    answer_reserve_tokens: int = 1
    """Tokens kept free for the answer when max_tokens or the context run out."""
    loop_ngram: int = 0
    """Guard against endless thinking: this many tokens ..."""
    loop_count: int = 0
    """... this many times in a row put thinking at its limit. 0: off."""

    def __post_init__(self) -> None:
        for name, least in _WHOLE.items():
            value = getattr(self, name)
            if not is_whole(value, least, _INT32_MAX) and (value is not None or name not in _MAY_BE_NONE):
                raise InputError(f"{name} is {shown(value)}; give a whole number from {least} to {_INT32_MAX}")
        for name, (low, high) in _REAL.items():
            value = getattr(self, name)
            if not is_number(value, low, high):
                raise InputError(f"{name} is {shown(value)}; give a finite number from {low:g} to {high:g}")
        for name, kind, noun in _LISTS:
            value = getattr(self, name)
            if value is None and name in _MAY_BE_NONE:
                continue
            if isinstance(value, str) and kind is str:
                value = (value,)
            if not isinstance(value, (list, tuple)) or any(
                not isinstance(v, kind) or isinstance(v, bool) for v in value
            ):
                raise InputError(f"{name} is {shown(value)}; give a list of {noun}")
            object.__setattr__(self, name, tuple(value))
        if self.seed is not None and not is_whole(self.seed, 0, 2**63 - 1):
            raise InputError(f"seed is {shown(self.seed)}; give a whole number from 0 to 2^63 - 1")
        if self.top_p == 0:
            raise InputError("top_p is 0; give a number above 0")
        for name, kinds, wanted in _KINDS:
            if not isinstance(getattr(self, name), kinds):
                raise InputError(f"{name} is {shown(getattr(self, name))}; give {wanted}")
        for name, choices in _CHOICES:
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {shown(getattr(self, name))}; give one of {', '.join(choices)}")
        allowed, budget = self.allowed_token_ids, self.thinking_token_budget
        if allowed == ():
            raise InputError("allowed_token_ids is empty; leave it out to allow every token")
        if allowed is not None and set(allowed) <= set(self.banned_token_ids):
            raise InputError("allowed_token_ids are all in banned_token_ids too; allow a token that is not banned")
        for name in ("stop", "pause", "thinking_extension_str", "thinking_end_str"):
            text = "".join(getattr(self, name) or "")
            lone = next((char for char in text if "\ud800" <= char <= "\udfff"), None)
            if lone is not None:
                raise InputError(f"{name} holds the lone surrogate U+{ord(lone):04X}; give valid Unicode text")
            if name not in ("stop", "pause") and len(text.encode()) > MAX_THINKING_BYTES:
                raise InputError(f"{name} has {len(text.encode()):,} bytes; give at most {MAX_THINKING_BYTES:,}")
        if len(self.stop_token_ids) > MAX_STOP_IDS:
            raise InputError(f"stop_token_ids holds {len(self.stop_token_ids):,} ids; give at most {MAX_STOP_IDS:,}")
        for name in ("stop", "pause"):
            strings = getattr(self, name)
            if len(strings) > MAX_STOP_STRINGS or any(not 0 < len(s.encode()) <= MAX_STOP_BYTES for s in strings):
                raise InputError(f"{name} takes up to {MAX_STOP_STRINGS} strings of 1 to {MAX_STOP_BYTES} bytes")
        if budget is not None and self.min_thinking_tokens > budget:
            raise InputError(
                f"min_thinking_tokens {self.min_thinking_tokens} is above thinking_token_budget {budget}; lower it or "
                "raise the budget"
            )
        if (self.loop_ngram > 0) != (self.loop_count > 0):
            raise InputError("loop_ngram and loop_count belong together; give both or neither")
        if self.loop_count == 1:
            raise InputError("loop_count is 1, and any text repeats once; give at least 2")
        if self.logit_bias is not None:
            object.__setattr__(self, "logit_bias", _clean_bias(self.logit_bias))

    @property
    def greedy(self) -> bool:
        """Whether nothing is random: below 1e-5, logits / temperature differ by more than float32 can tell apart."""
        return self.temperature < 1e-5

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], base: "SamplingParams | None" = None) -> "SamplingParams":
        """`base` (or the defaults) overridden by `values`, of which None says nothing. Unknown names are refused with
        the known ones."""
        if not isinstance(values, Mapping):
            raise InputError(f"params is {shown(values)}; give an object of sampling parameters")
        known = sorted(f.name for f in fields(cls))
        for name in values:
            if name not in known:
                raise InputError(f"unknown parameter {shown(name)}; known: {', '.join(known)}")
        given = {name: value for name, value in values.items() if value is not None}
        return cls(**given) if base is None else replace(base, **given)


def _clean_bias(bias: Mapping[Any, Any]) -> dict[int, float]:
    """Keys become ints, also those that JSON had to write as strings."""
    if not isinstance(bias, Mapping) or len(bias) > MAX_LOGIT_BIAS:
        raise InputError(f"logit_bias must map at most {MAX_LOGIT_BIAS} token ids to numbers")
    clean: dict[int, float] = {}
    for key, value in bias.items():
        # Not all that str.isdigit() takes is a number (superscripts), nor does int() take any length.
        digits = isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10
        if not digits and not is_whole(key):
            raise InputError(f"logit_bias has key {shown(key)}; keys are token ids")
        if not is_number(value, -100, 100):
            raise InputError(f"logit_bias[{shown(key)}] is {shown(value)}; give a number from -100 to 100")
        if int(key) in clean:
            raise InputError(f"logit_bias has token {int(key)} twice; give it once")
        clean[int(key)] = float(value)
    return clean


_WHOLE = {
    "n": 1,
    "max_tokens": 1,
    "min_tokens": 0,
    "pause_tokens": 0,
    "top_k": -1,
    "logprobs": 0,
    "thinking_token_budget": 0,
    "min_thinking_tokens": 0,
    "thinking_extensions": 0,
    "thinking_grace_tokens": 0,
    "min_answer_tokens": 0,
    "answer_reserve_tokens": 0,
    "loop_ngram": 0,
    "loop_count": 0,
}
"""Integer fields and their least value."""

_REAL = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repetition_penalty": (0.01, 100.0),
    "presence_penalty": (-100.0, 100.0),
    "frequency_penalty": (-100.0, 100.0),
}
"""Real fields and their range."""

_LISTS = (
    ("stop", str, "strings"),
    ("pause", str, "strings"),
    ("stop_token_ids", int, "token ids"),
    ("allowed_token_ids", int, "token ids"),
    ("banned_token_ids", int, "token ids"),
)
"""List fields, what they hold, and what that is called."""

_KINDS: tuple[tuple[str, tuple[type, ...], str], ...] = (
    ("ignore_eos", (bool,), "true or false"),
    ("continue_final_message", (bool, type(None)), "true or false"),
    ("thinking_format", (str, Mapping, type(None)), "a name or an object"),
    ("thinking_extension_str", (str,), "a string"),
    ("thinking_end_str", (str, type(None)), "a string"),
)
"""Other fields, what they may be, and what that is called."""

_CHOICES = (("thinking_budget_action", ("force_end", "truncate")), ("thinking_eos_policy", ("end", "stop")))

_MAY_BE_NONE = ("max_tokens", "logprobs", "thinking_token_budget", "allowed_token_ids")


@dataclass(frozen=True)
class Logprob:
    """One position: the committed token's log-probability under the model itself, and the best `logprobs` others."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    forced: bool = False


@dataclass(frozen=True)
class ThinkingReport:
    """What thinking came to: `tokens` is T; `stop_reason` is None where thinking never opened (or is still open)."""

    tokens: int = 0
    forced_tokens: int = 0
    extensions: int = 0
    stop_reason: StopReason | None = None


@dataclass(frozen=True)
class Completion:
    """One sample. `token_ids` starts after the prompt and holds the EOS that ended it; `forced` are positions in it."""

    index: int
    text: str
    reasoning: str
    answer: str
    token_ids: list[int]
    forced: list[int]
    finish_reason: FinishReason
    thinking: ThinkingReport
    logprobs: list[Logprob] | None = None
    cumulative_logprob: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Usage:
    """Token counts of one request, summed over its samples (the prompt counts once)."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    forced_tokens: int


@dataclass(frozen=True)
class Timing:
    """Seconds on a monotonic clock: waiting, to the first token, and in all."""

    queue_s: float
    ttft_s: float
    total_s: float


@dataclass(frozen=True)
class RequestOutput:
    """A finished request. `index` counts requests in submission order; `input` carries the caller's own fields."""

    id: str
    index: int
    prompt_token_ids: list[int]
    outputs: list[Completion]
    usage: Usage
    timing: Timing
    input: Mapping[str, Any] = field(default_factory=dict)


class Delta(NamedTuple):
    """One piece of a stream. `text` never mixes kinds: `kind` says what it is (delimiters come as DELIMITER/OPENER).

    `token_ids` and `forced` (positions in the completion's `token_ids`) are those committed since the last delta of
    this sample; text held back as a possible delimiter or half a character comes with a later delta.
    `finish_reason` is set on the sample's last delta, `output` on the request's last.
    """

    index: int  # type: ignore[assignment]  # instead of tuple's method
    text: str
    kind: TokenKind
    token_ids: tuple[int, ...] = ()
    forced: tuple[int, ...] = ()
    finish_reason: FinishReason | None = None
    output: RequestOutput | None = None
