"""Methods of test-time scaling, as a grid names them, and the conditions that they come to.

A condition is one point of a curve: sampling parameters, how many samples, and the limit that Control is measured
against. The engine does the forcing; nothing here edits text.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from bench.evaluation.harness_arguments import STEP_OPENER, TURN, parse
from bench.evaluation.search_plan import Search
from engine import InputError, SamplingParams
from engine.thinking.plan import PRESETS

# After the class-conditional prompts of the paper; not checked word for word against its table.
CLASS_WORDING = {
    "short": "Answer after a short amount of thinking. Do not spend excessive time double-checking your work.",
    "long": "Answer after a long amount of thinking. If you feel like you are finished early, spend the extra time "
    "trying to double-check your work until you are absolutely sure that you have the correct answer.",
}
TOKENS_WORDING, STEPS_WORDING = "Think for up to {} tokens.", "Think for up to {} steps."
STEP_FORMAT = {
    "opener": TURN + STEP_OPENER,
    "end": PRESETS["s1"].end,
    "budget_end": PRESETS["s1"].budget_end,
}


@dataclass(frozen=True)
class Defaults:
    """What a grid says for all its methods. `max_tokens` bounds a response, of which the last `answer_tokens` are kept
    for the forced end and the answer, whatever bounds the thinking."""

    temperature: float
    top_p: float
    samples: int
    max_tokens: int
    answer_tokens: int
    min_answer_tokens: int
    thinking_format: str | None

    def params(self, **fields: Any) -> SamplingParams:
        """The grid's sampling with `fields` laid over it."""
        grid: dict[str, Any] = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "min_answer_tokens": self.min_answer_tokens,
            "thinking_format": self.thinking_format,
        }
        return SamplingParams(**grid | fields)

    def within(self, budget: int | None, **fields: Any) -> tuple[SamplingParams, int]:
        """`params` and the limit of thinking within a budget; None: all that `answer_tokens` leaves of `max_tokens`,
        in place of s1's `auto`, which leaves 100. Raises InputError where the budget is more than that."""
        most = self.max_tokens - self.answer_tokens
        if most < (1 if budget is None else budget):
            raise InputError(
                f"{'thinking' if budget is None else f'budget {budget}'} and answer_tokens {self.answer_tokens} do not "
                f"fit into max_tokens {self.max_tokens}; raise max_tokens, or lower answer_tokens"
            )
        limit = most if budget is None else budget
        return self.params(thinking_token_budget=limit, max_tokens=limit + self.answer_tokens, **fields), limit


@dataclass(frozen=True)
class Condition:
    """One point of one curve.

    Attributes:
        label: its name, unique in the grid.
        series: the curve that it belongs to.
        params: how to sample; the seed is set per sample.
        limit: most thinking tokens that it asks for (None: it asks for no limit); Control holds samples against it.
        asks_more: Control is met by thinking longer than `limit` instead (class-conditional "long").
        samples: independent samples per problem.
        suffix: instruction appended to the question.
        tries: above 0: rejection sampling, at most this many draws for a sample within `limit`.
        opener: written after the chat template instead of the format's opener.
        search: how its sample is searched for; None: it is drawn.
    """

    label: str
    series: str
    params: SamplingParams
    limit: int | None = None
    asks_more: bool = False
    samples: int = 1
    suffix: str = ""
    tries: int = 0
    opener: str | None = None
    search: Search | None = None


class MethodBase(msgspec.Struct, frozen=True, tag_field="method", forbid_unknown_fields=True):
    """A method as a grid names it, by its `tag`."""


class NoForcing(MethodBase, frozen=True, tag="none"):
    """Plain generation: no budget and no forced end. With `opener` the thinking is opened, as s1's models need."""

    opener: bool = True
    """Open the thinking; false: the model is asked as it is, without a thinking format."""

    def conditions(self, defaults: Defaults) -> Iterator[Condition]:
        fields = {"thinking_budget_action": "truncate"} if self.opener else {"thinking_format": "none"}
        label = "no forcing" if self.opener else "no opener"
        yield Condition(label, "none", defaults.params(**fields), samples=defaults.samples)


class Budget(MethodBase, frozen=True, tag="budget"):
    """Thinking is cut at each of `budgets` tokens and the answer forced."""

    budgets: tuple[int, ...]
    """Most thinking tokens, a condition for each."""

    def conditions(self, defaults: Defaults) -> Iterator[Condition]:
        for budget in self.budgets:
            yield Condition(f"budget {budget}", "budget", *defaults.within(budget), samples=defaults.samples)


class Auto(MethodBase, frozen=True, tag="auto"):
    """As long as `max_tokens` allows, `answer_tokens` of them kept for the forced end and the answer."""

    def conditions(self, defaults: Defaults) -> Iterator[Condition]:
        yield Condition("auto", "budget", *defaults.within(None), samples=defaults.samples)


class Extensions(MethodBase, frozen=True, tag="extensions"):
    """So many ends of thinking are replaced by `string`, within `budget` thinking tokens (null: as `auto`)."""

    extensions: tuple[int, ...] = (0, 1, 2, 4, 6)
    """How many ends of thinking are replaced, a condition for each."""
    string: str = "Wait"
    """What replaces them; empty: the likeliest token that does not end thinking."""
    budget: int | None = None
    """Most thinking tokens; null: as `auto`."""

    def conditions(self, defaults: Defaults) -> Iterator[Condition]:
        name = self.string or "no string"
        for n in self.extensions:
            asked = defaults.within(self.budget, thinking_extensions=n, thinking_extension_str=self.string)
            yield Condition(f"{n}x {name}", f"extensions {name}", *asked, samples=defaults.samples)


class TokenConditional(MethodBase, frozen=True, tag="token_conditional"):
    """The prompt asks for at most so many tokens; with `forced` the engine sees to it as well."""

    limits: tuple[int, ...]
    """Tokens that the prompt names, a condition for each."""
    forced: bool = False
    """Cut the thinking there too."""

    def conditions(self, defaults: Defaults) -> Iterator[Condition]:
        series = "token-conditional" + (" + budget" if self.forced else "")
        for limit in self.limits:
            yield Condition(
                f"{series} {limit}",
                series,
                defaults.within(limit if self.forced else None)[0],
                limit,
                samples=defaults.samples,
                suffix=TOKENS_WORDING.format(limit),
            )


class StepConditional(MethodBase, frozen=True, tag="step_conditional"):
    """The prompt asks for at most so many steps, which the model counts down ("8 steps left" behind a bare turn) until
    it answers; with `forced` thinking ends at step 0, too.

    Control takes a step for `tokens_per_step` tokens, as the paper does. The paper's own commands differ: without
    forcing they open with what these models never write, and with it an answer ahead of step 0 ends no thinking.
    """

    limits: tuple[int, ...]
    """Steps that the prompt names, a condition for each."""
    forced: bool = False
    """End the thinking at step 0."""
    tokens_per_step: int = 100
    """What Control takes a step for."""

    def conditions(self, defaults: Defaults) -> Iterator[Condition]:
        series = "step-conditional" + (" + stop at 0" if self.forced else "")
        for limit in self.limits:
            format = STEP_FORMAT | {"triggers": [STEP_FORMAT["end"], *["<|im_start|>0"] * self.forced]}
            yield Condition(
                f"{series} {limit}",
                series,
                defaults.within(None, thinking_format=format)[0],
                limit * self.tokens_per_step,
                samples=defaults.samples,
                suffix=STEPS_WORDING.format(limit),
                opener=STEP_OPENER,
            )


class ClassConditional(MethodBase, frozen=True, tag="class_conditional"):
    """The prompt asks for short or for long thinking. `default_tokens`: what no instruction comes to, for Control."""

    classes: tuple[Literal["short", "long"], ...] = ("short", "long")
    """Lengths that the prompt asks for, a condition for each."""
    default_tokens: int | None = None
    """Thinking tokens that Control measures against; null: it has none."""

    def conditions(self, defaults: Defaults) -> Iterator[Condition]:
        for name in self.classes:
            yield Condition(
                f"class-conditional {name}",
                "class-conditional",
                defaults.within(None)[0],
                self.default_tokens,
                name == "long",
                defaults.samples,
                CLASS_WORDING[name],
            )


class Rejection(MethodBase, frozen=True, tag="rejection"):
    """Samples are drawn until one thinks within the limit; after `tries` draws the problem counts as not answered."""

    limits: tuple[int, ...]
    """Most thinking tokens of a sample that counts, a condition for each."""
    tries: int = 64
    """Draws until one counts, at most."""
    temperature: float = 1.0
    """Of the draws, above 0."""

    def conditions(self, defaults: Defaults) -> Iterator[Condition]:
        if self.temperature <= 0 or self.tries < 1:
            raise InputError("method rejection: temperature and tries must be above 0: greedy draws are all alike")
        for limit in self.limits:
            asked = defaults.within(limit, temperature=self.temperature, thinking_budget_action="truncate")
            yield Condition(f"rejection {limit}", "rejection", *asked, samples=defaults.samples, tries=self.tries)


class Parallel(MethodBase, frozen=True, tag="parallel"):
    """`samples` independent samples per problem and budget (null: `auto`), for majority and best-of-N."""

    samples: int
    """Samples per problem, at least 2."""
    budgets: tuple[int | None, ...] = (None,)
    """Most thinking tokens, a condition for each; null: as `auto`."""
    temperature: float = 1.0
    """Of the draws, above 0."""

    def conditions(self, defaults: Defaults) -> Iterator[Condition]:
        if self.temperature <= 0 or self.samples < 2:
            raise InputError("method parallel: temperature must be above 0 and samples at least 2, or all are alike")
        for budget in self.budgets:
            asked = defaults.within(budget, temperature=self.temperature, logprobs=0)
            heat = "" if self.temperature == 1.0 else f", temperature {self.temperature:g}"
            name = ("auto" if budget is None else f"budget {budget}") + heat
            yield Condition(f"{self.samples} samples, {name}", f"parallel {name}", *asked, samples=self.samples)


class Harness(MethodBase, frozen=True, tag="harness"):
    """The original harness's keyword arguments, as in its published commands (`docs/evaluation.md` has the table)."""

    arguments: str
    """As `--gen_kwargs` has them: name=value,name=value."""
    label: str | None = None
    """What the condition is called; null: by its arguments."""

    def conditions(self, defaults: Defaults) -> Iterator[Condition]:
        parsed = parse(self.arguments)
        yield Condition(
            self.label or self.arguments,
            "harness",
            parsed.params(defaults.thinking_format),
            parsed.limit,
            samples=defaults.samples,
            tries=parsed.tries,
            opener=parsed.opener,
        )


Method = (
    NoForcing
    | Budget
    | Auto
    | Extensions
    | TokenConditional
    | StepConditional
    | ClassConditional
    | Rejection
    | Parallel
    | Harness
)
