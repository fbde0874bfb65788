"""The paper's claims beside what was measured, each with a verdict by a rule that stands here and not in the text.

A claim holds where its 95 % interval lies wholly on the claimed side of zero, does not hold where it lies on the other,
and cannot be told at this size where it has zero within. Of several questions all must say the same.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

HOLDS, NOT, OPEN = "holds", "does not hold", "cannot be told"
MOVED = 0.20
"""By which tuning must move the base, so that choosing its data can mean anything."""
ENOUGH, FLAT = 0.05, 0.02
"""More samples, or another set, that add less are not needed; "Wait"s that add less add nothing."""


@dataclass(frozen=True)
class Claim:
    """A line of the summary."""

    where: str
    """Heading of the section that measures it."""
    claim: str
    theirs: str
    ours: str
    verdict: str


def side(estimate: Mapping[str, float], wanted: int = 1) -> str:
    """The verdict on one difference that should be above zero, or with -1 below."""
    low, high = sorted((wanted * estimate["low"], wanted * estimate["high"]))
    return HOLDS if low > 0 else NOT if high < 0 else OPEN


def below(estimate: Mapping[str, float], most: float) -> str:
    """The verdict on one difference that should be less than `most`."""
    return HOLDS if estimate["high"] < most else NOT if estimate["low"] > most else OPEN


def all_of(verdicts: Iterable[str]) -> str:
    """One verdict for several: holds if all do, does not hold if one does not."""
    found = list(verdicts)
    return NOT if NOT in found else HOLDS if set(found) == {HOLDS} else OPEN


def truth(told: bool) -> str:
    """The verdict on what was counted without error."""
    return HOLDS if told else NOT


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


def claims(told: Mapping[str, Any]) -> Iterator[Claim]:
    """All of them, in the page's order."""
    moved = told["base"]["moved"]
    yield Claim(
        "Does tuning move the base?",
        "A thousand traces bring reasoning out (here: 20 points or more)",
        "Qwen2.5-32B-Instruct to s1: AIME24 +23.3 without forcing, MATH500 +8.6, GPQA +7.6",
        "; ".join(f"{name}: {points(one)}" for name, one in moved.items()),
        all_of(side({"low": one["low"] - MOVED, "high": one["high"] - MOVED}) for one in moved.values()),
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
        f"26 minutes are {100 * plan['share_of_peak_in_26_minutes']:.0f} %",
        OPEN,
    )


def _scaling(groups: Mapping[str, Any]) -> Iterator[Claim]:
    where = "Figure 1 and 4a: accuracy rises with thinking"
    slopes = {name: one["budgets"] for name, one in groups.items()}
    yield Claim(
        where,
        "Accuracy rises with the thinking budget",
        "AIME24 0.0 % at 500 tokens, 56.7 % at 7,321",
        "; ".join(
            f"{name} {share(one['points'][0])} at {one['points'][0]['thinking']:.0f}, {share(one['points'][-1])} at "
            f"{one['points'][-1]['thinking']:.0f}"
            for name, one in slopes.items()
        ),
        all_of(side({"low": low, "high": high}) for low, high in (o["scaling_interval"] for o in slopes.values())),
    )
    yield Claim(
        where,
        '"Wait" lifts accuracy beyond the natural end',
        "AIME24 +6.7 points with 4 Waits (2 of 30 questions)",
        "; ".join(f"{name} {points(one['four_waits'])}" for name, one in groups.items()),
        all_of(side(one["four_waits"]) for one in groups.values()),
    )


def _parallel(found: Mapping[str, Any]) -> Iterator[Claim]:
    where = "Figures 4b and 7: one longer thought, votes, trees"
    yield Claim(
        where,
        "One longer thought beats a majority vote",
        "GPQA 59.6 % with Waits, 51.5 % by votes of the base at more tokens",
        f"4 Waits less 16 votes: {points(found['waits_over_majority'])}",
        side(found["waits_over_majority"]),
    )
    yield Claim(
        where,
        "REBASE beats a majority vote at equal width",
        "AIME24 56.7 against 53.3 % (1 question)",
        f"width 16: {points(found['rebase_over_majority'])}",
        side(found["rebase_over_majority"]),
    )
    yield Claim(
        where,
        "REBASE goes beyond what sequential scaling reaches",
        "AIME24 56.7 against at most 50.0 % (step-conditional model)",
        f"4 Waits less REBASE 16: {points(found['waits_over_rebase'])}",
        side(found["waits_over_rebase"], -1),
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
        yield Claim(where, claim, published, points(difference), side(difference, -1))
    full = rows["full"]["difference"]
    yield Claim(
        where,
        "All of the pool is no better than the chosen thousand (by less than 5 points)",
        "AIME24 +3.3, MATH500 -0.2, GPQA +0.5",
        points(full),
        below(full, ENOUGH),
    )
    steps = told["sizes"]["steps"]
    yield Claim(
        "Figure 2: how many samples it takes",
        "A thousand samples are enough: more add less than 5 points",
        "s1 93.0 % of MATH500 with 1K, r1-distill 94.3 % with 800K",
        "; ".join(f"{one['from']:,} to {one['to']:,}: {points(one)}" for one in steps),
        below(steps[-1], ENOUGH),
    )
    cut = told["table8"]
    where = "Table 8: training length"
    yield Claim(
        where,
        "Traces cut at a short training length make the model think longer",
        "AIME24 20,721 tokens for 6,984",
        f"tokens: {tokens(cut['more_thinking'])}",
        side(cut["more_thinking"]),
    )
    yield Claim(
        where,
        "and answer worse",
        "AIME24 -20.0, MATH500 -1.0, GPQA -0.5",
        points(cut["difference"]),
        side(cut["difference"], -1),
    )


def _control(found: Mapping[str, Any]) -> Iterator[Claim]:
    where, curves = "Table 3: ways to say how long", found["curves"]
    obeyed = {row["name"]: row for row in found["obeyed"]}
    free = [row for name, row in obeyed.items() if name.startswith("token-conditional")]
    yield Claim(
        where,
        "Budget forcing keeps to every budget",
        "Control 100 %",
        f"Control {100 * curves['budget forcing']['control']:.0f} %",
        truth(curves["budget forcing"]["control"] == 1.0),
    )
    yield Claim(
        where,
        "A model cannot count its tokens",
        "Control 40 %",
        f"Control {100 * curves['token-conditional']['control']:.0f} %; outputs within the number asked for: "
        + ", ".join(f"{row['name'].split()[-1]}: {100 * row['kept']:.0f} %" for row in free),
        truth(curves["token-conditional"]["control"] < 1.0),
    )
    steps = [row for name, row in obeyed.items() if name.startswith("step-conditional")]
    yield Claim(
        where,
        "Told in steps, it does not keep to them either",
        "Control 60 %",
        f"Control {100 * curves['step-conditional']['control']:.0f} %; outputs that end before step 0: "
        + ", ".join(f"{row['name'].split()[-1]}: {100 * row['kept']:.0f} %" for row in steps),
        truth(curves["step-conditional"]["control"] < 1.0),
    )
    yield Claim(
        where,
        "Asked for long thinking, a model thinks longer",
        "AIME24 8,033 and 9,651 tokens",
        f"tokens: {tokens(found['longer_when_asked'])}",
        side(found["longer_when_asked"]),
    )
    low, high = curves["rejection"]["scaling_interval"]
    yield Claim(
        where,
        "Rejection sampling scales inversely",
        "Scaling -35",
        f"Scaling {curves['rejection']['scaling']:+.1f} ({low:+.1f} to {high:+.1f})",
        side({"low": low, "high": high}, -1),
    )
    others = [one for name, one in curves.items() if name != "budget forcing"]
    best = max(one["performance"] for one in others)
    mine = curves["budget forcing"]["performance"]
    low, high = curves["budget forcing"]["performance_interval"]
    yield Claim(
        where,
        "Budget forcing performs best of all methods",
        "56.7 %, the others at most 40.0 %",
        f"{100 * mine:.1f} % ({100 * low:.1f} to {100 * high:.1f}), the others at most {100 * best:.1f} %",
        HOLDS if low > best else NOT if high < best else OPEN,
    )


def _strings(found: Mapping[str, Any]) -> Iterator[Claim]:
    for name, rows in found.items():
        others = [row for row in rows if not row["name"].startswith(("0x", "2x Wait"))]
        best = max(others, key=lambda row: row["accuracy"]["value"])
        wait = next(row for row in rows if row["name"] == "2x Wait")
        yield Claim(
            "Table 4: which string",
            f'"Wait" is the best string ({name})',
            "AIME24 53.3 %, others 50.0 %; elsewhere equal to Hmm",
            f"2x Wait {share(wait)}; next, {best['name'].removeprefix('2x ')!r}, {points(best['to_wait'])}",
            side(best["to_wait"], -1),
        )


def _limits(found: Mapping[str, Any]) -> Iterator[Claim]:
    where, rows = "Limits: until the context is full", found["rows"]
    later = [row for row in rows if int(row["name"].split("x")[0]) > 4]
    yield Claim(
        where,
        "Gains flatten after about six Waits",
        "AIME24 56.7 % with 4, 56.7 % with 6, 50.0 % with 8",
        "; ".join(f"{row['name']}: {points(row['difference'])}" for row in later),
        all_of(below(row["difference"], FLAT) for row in later),
    )
    yield Claim(
        where,
        "Too many Waits end in loops",
        "seen, not counted",
        "; ".join(f"{row['name']}: {100 * row['loops']:.0f} %" for row in later),
        truth(max(row["loops"] for row in later) > 0.5),
    )
