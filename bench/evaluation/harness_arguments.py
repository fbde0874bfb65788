"""The original harness's keyword arguments (`--gen_kwargs` of s1's evaluation), read as parameters of this engine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from engine import InputError, SamplingParams
from engine.thinking.plan import PRESETS

T = TypeVar("T", int, float)

REJECTION_TRIES = 1024
"""The original draws without an end; its hardest published limit took 655 rounds."""
AUTO_RESERVE = 100
"""Answer tokens that `auto` keeps free."""
TURN, STEP_OPENER = "<|im_start|>assistant\n", "<|im_start|>"
"""How the chat template ends, and what opens a step of the step-conditional models. The bare `<|im_start|>` stands in
the template's own turn already, so as an opener it is only told apart together with that."""
_THINKING = (
    "thinking_start",
    "thinking_end",
    "until_thinking",
    "until_thinking_2",
    "max_tokens_thinking",
    "min_tokens_thinking",
    "thinking_n_ignore",
    "thinking_n_ignore_str",
    "rejection_sample",
)
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed")


@dataclass(frozen=True)
class HarnessArguments:
    """What a string of keyword arguments asks for."""

    fields: Mapping[str, Any]
    """Of SamplingParams."""
    format: Mapping[str, Any] | None = None
    """A format of its own, where opener, closer or stops are not those of s1."""
    limit: int | None = None
    """Most thinking tokens."""
    tries: int = 0
    """Above 0: rejection sampling."""
    opener: str | None = None
    """Written after the chat template instead of the format's opener."""

    def params(self, thinking_format: str | None) -> SamplingParams:
        """Sampling parameters, in the string's format or else in `thinking_format`."""
        return SamplingParams(**{"thinking_format": self.format or thinking_format, **self.fields})


def parse(text: str) -> HarnessArguments:
    """Read `max_gen_toks=32768,max_tokens_thinking=auto,thinking_n_ignore=2,thinking_n_ignore_str=Wait`.

    As in the original: no thinking argument at all means one plain generation without opener; `thinking_n_ignore`
    without a string appends nothing; a minimum is dropped where ends are ignored.

    Raises InputError naming the argument that is unknown, is no number, or asks for what the engine does not do.
    """
    given = _pairs(text)
    fields: dict[str, Any] = {"temperature": 0.0, "max_tokens": _number(given, "max_gen_toks", 32768)}
    for name in given:
        base = name.removesuffix("_thinking")
        if base != name and base in _SAMPLING and _number(given, name, 0.0) != _number(given, base, 0.0):
            raise InputError(
                f"{name}={given[name]} differs from {base}={given.get(base, '0')}: thinking and answer "
                f"are sampled alike here; give {base}={given[name]} too, or leave it out"
            )
    whole = ("top_k", "seed")
    fields |= {name: _number(given, name, 0 if name in whole else 0.0) for name in _SAMPLING if name in given}
    known = {"max_gen_toks", *_SAMPLING, *(f"{name}_thinking" for name in _SAMPLING), *_THINKING}
    unknown = sorted(set(given) - known)
    if unknown:
        raise InputError(f"harness argument {unknown[0]!r} is unknown; known: {', '.join(sorted(known))}")
    if not any("thinking" in name or name == "rejection_sample" for name in given):
        return HarnessArguments({**fields, "thinking_format": "none"})
    ignored = _number(given, "thinking_n_ignore", 0)
    if ignored:
        fields |= {"thinking_extensions": ignored, "thinking_extension_str": given.get("thinking_n_ignore_str", "")}
    elif "min_tokens_thinking" in given:
        fields["min_thinking_tokens"] = _number(given, "min_tokens_thinking", 0)
    auto = given.get("max_tokens_thinking", "auto") == "auto"
    limit = None if auto else _number(given, "max_tokens_thinking", 0)
    fields |= {"answer_reserve_tokens": AUTO_RESERVE} if auto else {"thinking_token_budget": limit}
    rejecting = given.get("rejection_sample", "").lower() in ("true", "1")
    if rejecting:
        if limit is None:
            raise InputError("rejection_sample needs max_tokens_thinking=N, the limit to stay within")
        if not fields["temperature"]:
            raise InputError("rejection_sample needs a temperature above 0: greedy draws are all alike")
        fields["thinking_budget_action"] = "truncate"
    format = _format(given)
    return HarnessArguments(
        fields,
        format,
        limit=fields["max_tokens"] if limit is None else limit,
        tries=REJECTION_TRIES if rejecting else 0,
        opener=STEP_OPENER if format is not None and format["opener"] == TURN + STEP_OPENER else None,
    )


def _pairs(text: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for piece in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = piece.partition("=")
        if not equals or name in given:
            what = "is given twice" if name in given else "has no ="
            raise InputError(f"harness argument {piece!r} {what}; write name=value,name=value")
        given[name.strip()] = value.strip()
    return given


def _format(given: Mapping[str, str]) -> Mapping[str, Any] | None:
    """None where all strings are s1's own. The opener of step-conditional models is found after the template's turn."""
    s1 = PRESETS["s1"]
    words = {"thinking_start": s1.opener, "thinking_end": s1.end, "until_thinking": s1.triggers[0], **given}
    opener, end = words["thinking_start"].removesuffix("\\n").rstrip("\n"), words["thinking_end"]
    triggers = [words[name] for name in ("until_thinking", "until_thinking_2") if name in words]
    if (opener, end, tuple(triggers)) == (s1.opener, s1.end, s1.triggers):
        return None
    if opener == STEP_OPENER:
        opener = TURN + STEP_OPENER
    budget_end = end if end.endswith("Final Answer:") else f"{end}\nFinal Answer:"
    return {"opener": opener, "end": end, "budget_end": budget_end, "triggers": triggers}


def _number(given: Mapping[str, str], name: str, default: T) -> T:
    """The argument as a number of the default's type."""
    try:
        return type(default)(given.get(name, default))
    except ValueError as error:
        what = "whole number" if isinstance(default, int) else "number"
        raise InputError(f"harness argument {name}={given[name]} is no {what}") from error
