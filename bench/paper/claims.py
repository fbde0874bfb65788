"""The paper's claims beside what was measured, each with a verdict by a rule that stands here and not in the text.

A claim on a difference holds where its 95 % interval lies wholly on the claimed side of a bound (mostly zero), does not
hold where it lies wholly on the other, and cannot be told at this size where the bound is within. Of several
differences all must lie on the claimed side; one on the other is enough for a claim not to hold.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

HOLDS, NOT, OPEN = "holds", "does not hold", "cannot be told"
MOVED = 0.20
"""By which tuning must move the base, so that choosing its data can mean anything."""
ENOUGH, FLAT = 0.05, 0.02
"""More samples, or another set, that add less are not needed; "Wait"s that add less add nothing."""
OBEYS = 0.95
"""Share of its outputs that keeps to what is asked, of a model that can count."""


@dataclass(frozen=True)
class Claim:
    """A line of the summary."""

    where: str
    """Heading of the section that measures it."""
    claim: str
    theirs: str
    ours: str
    verdict: str


def above(estimate: Mapping[str, float] | None, least: float = 0.0) -> str:
    """The verdict on what should be above `least`; None: there is nothing to judge by."""
    if estimate is None:
        return OPEN
    return HOLDS if estimate["low"] > least else NOT if estimate["high"] < least else OPEN


def below(estimate: Mapping[str, float] | None, most: float = 0.0) -> str:
    """The verdict on what should be below `most`."""
    return {HOLDS: NOT, NOT: HOLDS, OPEN: OPEN}[above(estimate, most)]


def all_of(verdicts: Iterable[str]) -> str:
    """One verdict for several: holds if all do, does not hold if one does not."""
    found = list(verdicts)
    return NOT if NOT in found else HOLDS if set(found) == {HOLDS} else OPEN


def points(estimate: Mapping[str, float]) -> str:
    """A difference in percentage points with its interval."""
    value, low, high = (100 * estimate[name] for name in ("value", "low", "high"))
    return f"{value:+.1f} ({low:+.1f} to {high:+.1f})"


def tokens(estimate: Mapping[str, float]) -> str:
    """A difference in tokens with its interval."""
    return f"{estimate['value']:+.0f} ({estimate['low']:+.0f} to {estimate['high']:+.0f})"


def share(row: Mapping[str, Any]) -> str:
    """An accuracy."""
    return f"{100 * row['accuracy']['value']:.1f} %"


def percent(estimate: Mapping[str, float]) -> str:
    """A share with its interval."""
    value, low, high = (100 * estimate[name] for name in ("value", "low", "high"))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def slope(estimate: Mapping[str, float] | None) -> str:
    """Points per doubling with their interval."""
    return "none" if estimate is None else "{:+.1f} ({:+.1f} to {:+.1f})".format(*estimate.values())


def claims(told: Mapping[str, Any]) -> Iterator[Claim]:
    """All of them, in the page's order."""
    moved = told["base"]["moved"]
    yield Claim(
        "Does tuning move the base?",
        "A thousand traces bring reasoning out (here: 20 points or more)",
        "Qwen2.5-32B-Instruct to s1: AIME24 +23.3 without forcing, MATH500 +8.6, GPQA +7.6",
        "; ".join(f"{name}: {points(one)}" for name, one in moved.items()),
        all_of(above(one, MOVED) for one in moved.values()),
    )
    yield from _scaling(told["figure1"])
    yield from _parallel(told["figure7"])
    yield from _data(told)
    yield from _control(told["table3"])
    yield from _strings(told["table4"])
    yield from _limits(told["limits"])
    plan = told["training"]
    yield Claim(
        "Training time",
        "Training takes 26 minutes on 16 H100",
        "26 minutes",
        f"{plan['minutes']:.0f} minutes planned at an assumed {100 * plan['assumed_share_of_peak']:.0f} % of peak; "
        f"26 minutes are {100 * plan['share_of_peak_in_26_minutes']:.0f} %; not run on a GPU",
        OPEN,
    )


def _scaling(groups: Mapping[str, Any]) -> Iterator[Claim]:
    where = "Figures 1 and 4a: accuracy against thinking"
    yield Claim(
        where,
        "Accuracy rises with the thinking budget",
        "AIME24 0.0 % at 500 tokens, 50.0 % at 5,301",
        "points per doubling: "
        + "; ".join(f"{name} {slope(one['budgets']['scaling'])}" for name, one in groups.items()),
        all_of(above(one["budgets"]["scaling"]) for one in groups.values()),
    )
    yield Claim(
        where,
        '"Wait" lifts accuracy beyond the natural end',
        "AIME24 +6.7 points with 4 Waits (2 of 30 questions), MATH500 -0.4, GPQA +2.0",
        "4 Waits: " + "; ".join(f"{name} {points(one['four_waits'])}" for name, one in groups.items()),
        all_of(above(one["four_waits"]) for one in groups.values()),
    )


def _parallel(found: Mapping[str, Any]) -> Iterator[Claim]:
    where = "Figures 4b and 7: one longer thought, votes, trees"
    yield Claim(
        where,
        "One longer thought beats a majority vote that costs as much",
        "GPQA 59.6 % with Waits; 51.5 % by votes of the untuned base, at more tokens",
        f"4 Waits less {found['votes']} votes: {points(found['waits_over_as_dear_votes'])}; "
        f"less 16: {points(found['waits_over_all_votes'])}",
        above(found["waits_over_as_dear_votes"]),
    )
    yield Claim(
        where,
        "REBASE beats a majority vote of equal width",
        "AIME24 56.7 against 53.3 % (1 question)",
        f"width 16: {points(found['rebase_over_all_votes'])}",
        above(found["rebase_over_all_votes"]),
    )
    yield Claim(
        where,
        "REBASE goes beyond one longer thought",
        "AIME24 56.7 against at most 50.0 % (step-conditional model)",
        f"REBASE 16 less 4 Waits: {points(found['rebase_over_waits'])}",
        above(found["rebase_over_waits"]),
    )


def _data(told: Mapping[str, Any]) -> Iterator[Claim]:
    where, rows = "Table 2: what a thousand is chosen by", {row["name"]: row for row in told["table2"]["rows"]}
    theirs = {
        "random": ("Quality alone is not enough: 1,000 at random are worse", "AIME24 -13.3, MATH500 -2.4, GPQA -5.6"),
        "diverse": ("Diversity alone is not enough", "AIME24 -23.3, MATH500 -1.8, GPQA -3.0"),
        "longest": ("Difficulty (length) alone is not enough", "AIME24 -16.7, MATH500 -2.6, GPQA +2.0"),
    }
    for name, (claim, published) in theirs.items():
        difference = rows[name]["difference"]
        yield Claim(where, claim, published, points(difference), below(difference))
    full = rows["full"]["difference"]
    yield Claim(
        where,
        "All of the pool adds less than 5 points to the chosen thousand",
        "AIME24 +3.3, MATH500 -0.2, GPQA +0.5",
        points(full),
        below(full, ENOUGH),
    )
    steps = told["sizes"]["steps"]
    yield Claim(
        "Figure 2: how many samples it takes",
        "A thousand samples are enough: three thousand add less than 5 points",
        "s1 93.0 % of MATH500 with 1K, r1-distill 94.3 % with 800K",
        "; ".join(f"{one['from']:,} to {one['to']:,}: {points(one)}" for one in steps),
        below(steps[-1], ENOUGH),
    )
    cut, where = told["table8"], "Table 8: training length"
    yield Claim(
        where,
        "Traces cut at a short training length make a model think longer",
        "AIME24 20,721 tokens for 6,984",
        f"tokens: {tokens(cut['more_thinking'])}",
        above(cut["more_thinking"]),
    )
    yield Claim(
        where,
        "Traces cut at a short training length make a model answer worse",
        "AIME24 -20.0, MATH500 -1.0, GPQA -0.5",
        points(cut["difference"]),
        below(cut["difference"]),
    )


def _control(found: Mapping[str, Any]) -> Iterator[Claim]:
    where, curves, keeps = "Table 3: ways to say how long", found["curves"], found["keeps"]
    yield Claim(
        where,
        "Budget forcing keeps to every budget",
        "Control 100 %",
        f"Control {100 * curves['budget forcing']['control']:.0f} %",
        HOLDS if curves["budget forcing"]["control"] == 1.0 else NOT,
    )
    yield Claim(
        where,
        "A model cannot count its tokens (of its outputs less than 95 % keep to the number)",
        "Control 40 %",
        f"Control {100 * curves['token-conditional']['control']:.0f} %; "
        f"{percent(keeps['token'])} of the outputs keep to it",
        below(keeps["token"], OBEYS),
    )
    yield Claim(
        where,
        "Told in steps, it does not keep to them either (less than 95 % do)",
        "Control 60 %",
        f"Control {100 * curves['step-conditional']['control']:.0f} %; "
        f"{percent(keeps['step'])} of the outputs keep to it",
        below(keeps["step"], OBEYS),
    )
    yield Claim(
        where,
        "Asked for long thinking, a model thinks longer",
        "AIME24 8,033 and 9,651 tokens",
        f"tokens: {tokens(found['longer_when_asked'])}",
        above(found["longer_when_asked"]),
    )
    rejection = found["rejection"]
    yield Claim(
        where,
        "Rejection sampling scales inversely",
        "Scaling -35",
        f"Scaling {slope(rejection['scaling'])} on the {100 * rejection['always']:.0f} % of questions that every limit "
        f"has an answer to; {slope(curves['rejection']['scaling'])} where a question without one counts as wrong",
        below(rejection["scaling"]),
    )
    best, other = curves["budget forcing"], curves[found["best_other"]]
    yield Claim(
        where,
        "Budget forcing performs best of all methods",
        "56.7 %, the others at most 40.0 %",
        f"{percent(best['performance'])}; next, {found['best_other']}, {percent(other['performance'])}; "
        f"difference {points(found['forcing_over_best_other'])}",
        above(found["forcing_over_best_other"]),
    )


def _strings(found: Mapping[str, Any]) -> Iterator[Claim]:
    for name, rows in found.items():
        others = [row for row in rows if "Wait" not in row["name"]]
        best = max(others, key=lambda row: row["accuracy"]["value"])
        wait = next(row for row in rows if row["name"] == "2x Wait")
        yield Claim(
            "Table 4: which string",
            f'"Wait" is the best string ({name})',
            "AIME24 53.3 %, others 50.0 %; elsewhere equal to Hmm",
            f"2x Wait {share(wait)}; the best other, {best['name'].removeprefix('2x ')!r}, {points(best['to_wait'])}",
            below(best["to_wait"]),
        )


def _limits(found: Mapping[str, Any]) -> Iterator[Claim]:
    where, rows = "Limits: until the context is full", found["rows"]
    later = [row for row in rows if row["waits"] > 6]
    yield Claim(
        where,
        "More than six Waits add nothing (less than 2 points)",
        "AIME24 56.7 % with 4 and with 6, 50.0 % with 8 (the authors' logs)",
        "; ".join(f"{row['name']}: {points(row['difference'])}" for row in later),
        all_of(below(row["difference"], FLAT) for row in later),
    )
    most = max(later, key=lambda row: row["copies"]["value"])
    yield Claim(
        where,
        "More than six Waits end in repetition (over half of the last rounds are copies)",
        "seen, not counted",
        f"at most, with {most['name']}: {percent(most['copies'])}",
        above(most["copies"], 0.5),
    )
