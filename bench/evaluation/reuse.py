"""One trace per problem, forked at every budget: only answers are generated again.

With position-keyed draws the run at a smaller budget, or with fewer extensions, is a prefix of the longer one up to
its own cut (rule 20 of the budget-forcing specification). So the longest run is made once; for every other condition
the cut is found in it, and the engine continues from prompt + prefix under that condition's own parameters. It draws
at the cut again and decides there itself, so the fork commits what an independent run would have committed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

from bench.evaluation.methods import Condition
from bench.evaluation.samples import Request, Sample
from engine import SamplingParams
from engine.text.tokenizer import Tokenizer
from engine.thinking.plan import ThinkingPlan

ENDS = ("natural", "eos", "budget", "max_tokens", "context")
"""Stop reasons of a trace that others can be forked from."""


End = Literal["whole", "natural", "limit"]
"""How a condition's thinking ends, seen from the trace. `whole`: as the trace's own, which is the condition's response;
`natural`: at an end that the trace replaced by an extension; `limit`: at its budget."""


@dataclass(frozen=True)
class Cut:
    """Where a condition leaves the trace: after `at` tokens, `extensions` of them used."""

    at: int
    extensions: int
    end: End


@dataclass(frozen=True)
class Family:
    """Conditions that share a trace, and the parameters of that trace."""

    label: str
    conditions: tuple[Condition, ...]
    params: SamplingParams


def families(conditions: Sequence[Condition]) -> tuple[list[Family], list[Condition]]:
    """Which conditions share traces, and which run by themselves.

    Alone: what is searched for, rejected, truncated, has log-probabilities or a loop guard, extends by no string (its
    extensions cannot be seen in the trace), or has a trigger of several tokens (a custom format).
    """
    shareable = [c for c in conditions if _shareable(c)]
    first = {_base(c): c.params.thinking_extension_str for c in reversed(shareable) if c.params.thinking_extensions}
    groups: dict[Any, list[Condition]] = {}
    for c in shareable:
        string = c.params.thinking_extension_str if c.params.thinking_extensions else first.get(_base(c), "")
        groups.setdefault((_base(c), string), []).append(c)
    found: list[Family] = []
    for (_, string), members in groups.items():
        if len(members) == 1:
            continue
        budgets = [c.params.thinking_token_budget for c in members]
        params = replace(
            members[0].params,
            thinking_extensions=max(c.params.thinking_extensions for c in members),
            thinking_extension_str=string or members[0].params.thinking_extension_str,
            thinking_token_budget=None if None in budgets else max(b for b in budgets if b is not None),
            max_tokens=max(c.params.max_tokens or 0 for c in members),
            answer_reserve_tokens=min(c.params.answer_reserve_tokens for c in members),
        )
        found.append(Family(f"trace {len(found) + 1}", tuple(members), params))
    return found, [c for c in conditions if not any(c in family.conditions for family in found)]


def _shareable(condition: Condition) -> bool:
    p = condition.params
    return not (
        condition.tries
        or condition.search is not None
        or (p.thinking_extensions > 0 and not p.thinking_extension_str)
        or (p.repetition_penalty, p.presence_penalty, p.frequency_penalty) != (1.0, 0.0, 0.0)
        or p.thinking_budget_action == "truncate"
        or p.logprobs is not None
        or p.loop_ngram
        or p.thinking_grace_tokens
        or p.min_tokens
        or p.thinking_format == "none"
        or not (p.thinking_format is None or isinstance(p.thinking_format, str))
    )


def _base(condition: Condition) -> tuple[Any, ...]:
    """What conditions of one family have in common."""
    p = replace(
        condition.params,
        thinking_token_budget=None,
        thinking_extensions=0,
        thinking_extension_str="Wait",
        max_tokens=None,
        answer_reserve_tokens=1,
    )
    return repr(p), condition.suffix, condition.opener, condition.samples


def limit_of(plan: ThinkingPlan) -> int:
    """Most thinking tokens that a plan leaves room for: its budget, max_tokens and the context taken together."""
    return min(plan.budget, min(plan.max_tokens, plan.max_context) - plan.reserve)


def cut_of(trace: Sample, plan: ThinkingPlan, size: int) -> Cut:
    """Where a condition with this plan leaves a trace whose extension has `size` tokens.

    Before its thinking ends, the i-th extension of the trace stands where the model drew an end. There the condition
    ends naturally if it has no extension left or if none fits (row 5 of the specification's table); otherwise it goes
    on, up to its limit, and an end drawn exactly at the limit is natural (rule 6).
    """
    limit = limit_of(plan)
    starts = [p for p in trace.forced if p < trace.thinking_tokens][::size]
    for used, at in enumerate(starts):
        if at > limit:
            return Cut(limit, used, "limit")
        if used >= plan.extensions or at + size >= limit:
            return Cut(at, used, "natural")
    if trace.stop_reason in ("natural", "eos") and trace.thinking_tokens <= limit:
        return Cut(trace.thinking_tokens, len(starts), "whole")
    return Cut(min(limit, trace.thinking_tokens), len(starts), "limit")


def fork(start: Request, trace: Sample, cut: Cut, params: SamplingParams) -> Request:
    """The request that continues the trace from a cut as `params` would have."""
    assert params.max_tokens is not None
    prompt = cast(tuple[int, ...], start.prompt)  # messages cannot be continued, and have no family
    left = params.thinking_extensions - cut.extensions
    return Request(
        (*prompt, *trace.token_ids[: cut.at]),
        replace(params, thinking_extensions=left, max_tokens=params.max_tokens - cut.at),
    )


def join(trace: Sample, cut: Cut, rest: Sample, tokenizer: Tokenizer) -> Sample:
    """The response that the trace up to the cut and its continuation make together."""
    ids = trace.token_ids[: cut.at]
    return replace(
        rest,
        token_ids=ids + rest.token_ids,
        forced=tuple(p for p in trace.forced if p < cut.at) + tuple(p + cut.at for p in rest.forced),
        reasoning=tokenizer.decode(ids).strip(),
        extensions=cut.extensions + rest.extensions,
        prompt_tokens=trace.prompt_tokens,
        completion_tokens=len(ids) + rest.completion_tokens,
    )
