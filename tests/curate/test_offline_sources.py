"""Generated sources: counts, answers that are right, and rows that are wrong on purpose."""

import itertools
import json
import re
from collections import Counter
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest

from curate.config import load_config
from curate.families import FAMILIES, check
from curate.normalise import canonical
from curate.sources import PAPER
from curate.sources.probability import Probability
from curate.sources.procedural import Procedural, heldout
from curate.sources.teasers import Teasers
from curate.stages.collect import collect_source
from engine.errors import InputError

RECIPES = Path(__file__).resolve().parents[2] / "curate" / "recipes"


def gathered(source):
    questions, decisions = collect_source(source, lambda rows: None)
    assert decisions["keep"].all()
    return [row | {"meta": json.loads(row["meta"])} for row in questions.to_dicts()]


def shortest_crossing(times: tuple[int, ...]) -> int:
    """Least time in which all cross, by search over who is on which side; a check of the closed form."""
    everyone = frozenset(range(len(times)))
    open_states: dict[tuple[frozenset[int], bool], int] = {(frozenset(), True): 0}
    done: set[tuple[frozenset[int], bool]] = set()
    while open_states:
        state = min(open_states, key=lambda s: (open_states[s], sorted(s[0]), s[1]))
        cost = open_states.pop(state)
        over, torch_here = state
        if over == everyone:
            return cost
        done.add(state)
        side = everyone - over if torch_here else over
        for size in (1, 2):
            for walkers in itertools.combinations(sorted(side), size):
                after = (over | set(walkers) if torch_here else over - set(walkers), not torch_here)
                price = cost + max(times[w] for w in walkers)
                if after not in done and price < open_states.get(after, price + 1):
                    open_states[after] = price
    raise ValueError("nobody to cross")


@pytest.mark.parametrize(("recipe", "rows"), [("offline_59k.yaml", 59_029), ("offline_2k.yaml", 2_000)])
def test_recipes_stand_in_for_all_sixteen_sources(recipe, rows):
    sources = load_config(RECIPES / recipe).collect.sources
    assert {source.label for source in sources} == {f"procedural/{cls.info.name}" for cls in PAPER}
    assert sum(source.rows for source in sources) == rows
    if rows == 59_029:
        assert {s.label: s.rows for s in sources} == {f"procedural/{c.info.name}": c.info.paper for c in PAPER}


def small(**settings):
    return Procedural(**{"rows": 300, "families": dict.fromkeys(FAMILIES, 1.0), "name": "x"} | settings)


def test_plain_answers_are_verified_and_reasoning_ends_with_them():
    for q in gathered(small(rows=200)):
        assert q["answer_type"] == "family" and check(q["family"], q["question"], q["answer"])
        assert q["solution"].endswith(f"\nAnswer: {q['answer']}") and len(q["solution"]) > 20


@pytest.mark.parametrize("style", ["theme", "choice"])
def test_styled_answers_are_right(style):
    rows = gathered(small(style=style))
    for q in rows:
        family = q["meta"]["family"]
        if q["answer_type"] == "choice":
            value = next(line for line in q["question"].splitlines() if line.startswith(f"({q['answer']})"))[4:]
            prompt = q["question"].split("\n(A)")[0]
        else:
            value, prompt = q["answer"], q["question"]
        plain = prompt[prompt.index(value_start(family, prompt)) :]
        assert check(family, plain, value)
        if family in ("clocks", "logic"):  # words, but of one spelling: they can be graded without a judge
            assert q["answer_type"] == "exact"
    assert (style == "choice") == any(q["answer_type"] == "choice" for q in rows)
    assert len({q["meta"]["theme"] for q in rows}) > 20


def value_start(family, prompt):
    """Where the family's own words begin behind the opening."""
    starts = {
        "countdown3": "Use each",
        "countdown4": "Use each",
        "chains": "Start with",
        "residues": "Count up",
        "sequences": "What comes",
        "clocks": "It is ",
        "weekdays": "Day ",
        "logic": "Runners",
    }
    return starts[family]


def test_programs_have_no_reference():
    rows = gathered(small(style="program", rows=20))
    assert {(q["answer"], q["answer_type"], q["cot_type"]) for q in rows} == {(None, "none", "coding")}


def test_rows_put_in_on_purpose():
    seeded = {"copies": 10, "near_copies": 9, "leaks": 8, "damaged": 7, "unanswered": 6}
    rows = gathered(small(**seeded))
    found = Counter(q["meta"].get("seeded") for q in rows)
    assert found[None] == 300 - 40
    assert dict(found) == {None: 260, "copy": 10, "near copy": 9, "leak": 8, "damaged": 7, "unanswered": 6}
    first = {}
    for q in rows:
        kind = q["meta"].get("seeded")
        if kind == "copy":
            assert canonical(q["question"]) in first
        if kind == "leak":
            assert canonical(q["question"]).replace(";", ",") in {canonical(p.prompt) for p in heldout(7, 1000)}
        if kind == "unanswered":
            assert q["answer"] is None and q["answer_type"] == "none"
        first[canonical(q["question"])] = q


def test_parts_share_no_question_and_nothing_of_it_is_held_out():
    one = {q["question"] for q in gathered(small(part=(0.0, 0.5)))}
    two = {q["question"] for q in gathered(small(part=(0.5, 1.0)))}
    assert len(one) == len(two) == 300 and not one & two
    assert not (one | two) & {p.prompt for p in heldout(7, 1000)}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"families": {"residues": 1}, "part": (0.0, 0.001)}, "source x: [0-9]+ questions are all that these settings"),
        ({"families": {"riddles": 1}}, "families names .'riddles'.; known: countdown3"),
        ({"copies": 200, "leaks": 101}, "301 rows are to be special ones, but rows is 300"),
        ({"path": "rows.jsonl"}, "source x is generated: path means nothing here"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        gathered(small(**settings))


def test_hard_sources_hold_hard_questions():
    assert all(q["meta"]["waits"] >= 2 for q in gathered(small(families={"countdown4": 1}, least_waits=2, rows=50)))


def test_the_same_seed_gives_the_same_rows():
    assert gathered(small(copies=5)) == gathered(small(copies=5))
    assert [q["question"] for q in gathered(small(seed=1))] != [q["question"] for q in gathered(small(seed=2))]


def test_probability_and_teasers_make_as_many_as_the_paper_has():
    problems, teasers = gathered(Probability()), gathered(Teasers())
    assert len({q["qid"] for q in problems}) == 182 and len({q["qid"] for q in teasers}) == 23
    proofs = [q for q in problems if q["answer"] is None]
    assert 15 < len(proofs) < 40 and all(q["answer_type"] == "none" and q["solution"] for q in proofs)
    for q in problems + teasers:
        assert q["answer"] is None or "\\boxed{" + q["answer"] + "}" in q["solution"]


def test_a_generated_source_that_runs_out_says_so():
    with pytest.raises(InputError, match=r"source few: \d+ questions are all there are; ask for fewer rows"):
        gathered(FewKinds(name="few", rows=500))


class FewKinds(Probability, frozen=True, tag="few"):
    kinds = Probability.kinds[-1:]


def simulated(kind, rng, runs=4000):
    """A problem of `kind`, its exact answer and a simulated one."""
    draft = next(d for d in (k(Random(rng.random())) for k in Probability.kinds * 50) if d.meta["kind"] == kind)
    numbers = [Fraction(n) for n in re.findall(r"\d+", draft.question)]
    outcomes = [SIMULATIONS[kind](numbers, draft.question, rng) for _ in range(runs)]
    return float(value(draft.answer)), sum(outcomes) / runs


def value(answer):
    return Fraction(answer.replace("\\frac{", "").replace("}{", "/").rstrip("}"))


def ballot(n, text, rng):
    votes = [1] * int(n[0]) + [-1] * int(n[1])
    rng.shuffle(votes)
    ahead = 0
    for vote in votes:
        ahead += vote
        if ahead <= 0:
            return 0
    return 1


def urn(n, text, rng):
    red, blue, draws = map(int, n)
    for _ in range(draws):
        if rng.random() * (red + blue) >= red:
            return 0
        red += 1
    return 1


def coupons(n, text, rng):
    total, have = int(n[0]), set(range(int(n[1])))
    boxes = 0
    while len(have) < total:
        boxes += 1
        have.add(rng.randrange(total))
    return boxes


def pattern(n, text, rng):
    wanted = next(word for word in text.split() if len(word) > 2 and set(word) <= set("HT"))
    seen = ""
    while not seen.endswith(wanted):
        seen += rng.choice("HT")
    return len(seen)


SIMULATIONS = {"ballot": ballot, "Polya urn": urn, "coupon collector": coupons, "pattern waiting time": pattern}


@pytest.mark.parametrize("kind", SIMULATIONS)
def test_probabilities_agree_with_simulation(kind):
    exact, estimate = simulated(kind, Random(11))
    assert estimate == pytest.approx(exact, rel=0.08, abs=0.03)


def test_bridges_agree_with_a_search_of_all_crossings():
    bridges = [q for q in gathered(Teasers(rows=40)) if q["meta"]["kind"] == "bridge"]
    for q in bridges:
        times = tuple(map(int, re.findall(r"\d+", q["question"])))
        assert int(q["answer"]) == shortest_crossing(times)
    assert len(bridges) == 8
