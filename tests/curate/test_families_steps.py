"""Verdicts on steps: what the families write is right, a changed number is not, and dead ends are no errors."""

import re
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.families import FAMILIES, check, problems
from curate.families.clocks import DAYS
from curate.families.distinct import draw_distinct
from curate.families.problem import thinking
from curate.families.steps import READERS, Verdict, first_error, verdicts
from engine import Engine, SamplingParams
from engine.errors import InputError

MODEL = Path(__file__).parents[2] / "models" / "s1-nano"
R, W, U = Verdict.RIGHT, Verdict.WRONG, Verdict.UNKNOWN
PROMPTS = {
    "countdown3": "Use each of 2, 5 and 6 once to make 28.",
    "countdown4": "Use each of 36, 9, 8 and 7 once, with plus and minus only, to make 26.",
    "chains": "Start with 65.\nSubtract 12.\nAdd 34.\nSubtract 28.\nWhat is the result?",
    "residues": "Count up from 12 in steps of 9. Which is the first number after 12 that ends in 3?",
    "sequences": "What comes next: 20, 27, 31, 38, 42?",
    "clocks": "It is 10:30. What time is it 3 hours and 35 minutes later?",
    "weekdays": "Day 12 is a Wednesday. A club meets then and every 4 days. "
    "Which day number is its first Friday meeting?",
    "logic": "Runners Dan, Bob and Kim ran a race. Bob was before Dan. Kim was before Bob. "
    "In which order did they finish?",
}


def drawn(family, count, splits=("train", "heldout")):
    return [problem for split in splits for problem in islice(problems(split, 11, (family,), even=1.0), count)]


def expected(problem, lines):
    """RIGHT for all but the slips of a hasty pass: the last sum of a chain and the answer; of a clock the answer."""
    wanted = [R] * len(lines)
    if problem.family in ("chains", "clocks") and problem.difficulty:
        end = len(problem.rounds[0].lines)
        slips = 2 if problem.family == "chains" else 1
        wanted[end - slips : end] = [W] * slips
    return wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_every_written_line_is_right_but_the_slips(family):
    levels = set()
    for problem in drawn(family, 150):
        levels.add(problem.difficulty)
        for last, checks in ((0, 0), (len(problem.rounds) - 1, 0), (len(problem.rounds) - 1, 3)):
            lines = thinking(problem, last, checks).split("\n")
            assert verdicts(family, problem.prompt, lines) == expected(problem, lines), problem.prompt
    assert levels == set(range(len(FAMILIES[family].difficulty)))


def changed(line, rng, names):
    """`line` with one number, name or verdict changed, each in turn."""
    words = ["low", "high", "yes"] if " make " in line else ["yes", "no"]
    for found in re.finditer(rf"\d+|\b(?:{'|'.join([*names, *words])})\b", line):
        old = found[0]
        if old.isdigit():
            kinds = [[str(int(old) + by)] for by in (1, 10, rng.randint(11, 50))] + [[str(int(old) // 2 + 60)]]
        else:
            kinds = [[other for other in (names if old in names else words) if other != old]]
        for others in kinds:
            other = rng.choice(others)
            if other != old:
                yield line[: found.start()] + other + line[found.end() :]


@pytest.mark.parametrize("family", FAMILIES)
def test_one_changed_number_name_or_verdict_makes_a_right_line_wrong(family):
    rng, tried = Random(5), 0
    for problem in drawn(family, 12):
        lines = thinking(problem, checks=1).split("\n")
        before = verdicts(family, problem.prompt, lines)
        names = re.findall(r"[A-Z]\w+", problem.prompt.split(" ran ")[0])[1:] if family == "logic" else list(DAYS)
        for at, line in enumerate(lines):
            for other in changed(line, rng, names) if before[at] is R else ():
                tried += 1
                found = verdicts(family, problem.prompt, [*lines[:at], other])
                assert found == [*before[:at], W], (problem.prompt, line, other)
    assert tried > 500


@pytest.mark.parametrize("family", ["countdown3", "countdown4", "chains", "residues", "weekdays", "sequences"])
def test_sums_that_come_out_of_numbers_that_are_not_there_are_wrong(family):
    tried = 0
    for problem in drawn(family, 40):
        lines = thinking(problem).split("\n")
        before = verdicts(family, problem.prompt, lines)
        for at, line in enumerate(lines):
            form = re.search(r"(\d+)([+-])(\d+)=(\d+)", line)
            if form and len(re.findall("=", line)) == 1 and before[at] is R:
                more = f"{int(form[1]) + 70}{form[2]}{form[3]}={int(form[4]) + 70}"
                found = verdicts(family, problem.prompt, [*lines[:at], line.replace(form[0], more)])
                assert found[-1] is W, (line, more)
                tried += 1
    assert tried > 20


@pytest.mark.parametrize(
    ("family", "lines", "wanted"),
    [
        # Honest dead ends, out of turn, repeated, turned round, on after a wrong line.
        ("countdown3", ["5*6=30 and 2", "30+2=32 make 28 high", "2+30=32 make 28 high", "2+5=7 and 6"], [R, R, R, R]),
        ("countdown3", ["2+5=8 and 6", "8+6=14 make 28 low", "7+6=13 make 28 low"], [W, R, W]),
        ("countdown3", ["5*6=30 and 5", "5*5=25 and 2", "30-2=28 make 28 yes"], [W, W, W]),
        ("countdown3", ["so (5*6)-2", "5*6=30 and 2", "30-2=28 make 28 yes", "so (5*6)-2", "so 28"], [W, R, R, R, W]),
        ("countdown3", ["6, 5 and 2 make 28", "6, 5 and 5 make 28", "2, 5 and 6 make 82"], [R, W, W]),
        ("countdown4", ["36+9=45 45+8=53 and 7", "53*7=371 make 26 high", "53-7=46 make 26 low"], [R, W, W]),
        ("countdown4", ["36+9=45 44+8=52 and 7", "36+9=45 45+8=53 and 8", "36+9=45 and 8"], [W, W, W]),
        # A forgotten carry is wrong once; what goes on from it is right; a step left out is not.
        ("chains", ["Subtract 12. 65-12=53", "Add 34. 53+34=77", "Subtract 28. 77-28=49", "so 49"], [R, W, R, W]),
        ("chains", ["Subtract 12. 65-12=53", "Subtract 28. 53-28=25", "so 25"], [R, W, W]),
        ("chains", ["Subtract 12. 65-10=55 55-3=52", "Add 12. 65+12=77", "Add 34. 65+34=99"], [W, W, W]),
        ("chains", ["Start with 65.", "so 59", "Start with 56."], [R, W, W]),
        ("residues", ["12+9=21 is 1 ends in 3 no", "30+9=39 is 9 ends in 3 no"], [R, W]),
        ("residues", ["12+9=21 is 1 ends in 3 no", "12+9=21 is 1 ends in 3 no"], [R, W]),
        ("residues", ["12+9=21 is 1 ends in 3 no", "Wait, check.", "12+9=21 is 1 ends in 3 no"], [R, R, R]),
        ("residues", ["12+9=21 is 1 leaves 3 no", "so 93", "Answer: 93", "Final Answer: 94"], [W, W, R, W]),
        ("sequences", ["same 27-20=7 31-27=4 no", "double 20+20=40 is 27 no", "42+7=49"], [R, R, W]),
        ("sequences", ["swap 27-20=7 and 38-31=7 31-27=4 and 42-38=4 yes", "42+7=49", "so 49"], [R, R, R]),
        ("sequences", ["swap 27-20=7 and 38-31=7 yes", "same 27-20=7 no", "sum 20+27=47 is 38 no"], [W, W, W]),
        ("clocks", ["hours 10+3=13 13-12=1", "minutes 30+35=65 65-60=05", "so 1:05", "so 2:05"], [R, R, W, W]),
        ("clocks", ["minutes 30+35=65 65-60=05", "hours 10+3=13 13-12=1"], [R, W]),
        ("clocks", ["hours 10+3=13 13-12=1 1+1=2", "minutes 30+35=65", "hours 10+3=13"], [W, W, W]),
        ("weekdays", ["12+4=16 Wednesday and 4 is Monday first Friday no"], [W]),
        ("weekdays", ["12+4=16 Wednesday and 4 is Sunday first Friday no", "so 28", "Answer: not found"], [R, W, W]),
        ("logic", ["see Kim was before Bob in Kim Bob Dan yes", "so Kim, Bob, Dan"], [R, W]),
        # Each of these comes out in itself, but not of what is asked or was reached.
        ("countdown4", ["36+9=45 8-7=1 and 45"], [W]),
        ("chains", ["Subtract 12. 65+12=77"], [W]),
        ("chains", ["Subtract 12. 65-12=53", "Add 34. 53+34=77", "Subtract 28. 77-28=49", "so 59"], [R, W, R, W]),
        ("clocks", ["minutes 30+35=65 65-60=05", "Wait, check.", "hours 10+3=13 13-12=1"], [R, R, R]),
        ("clocks", ["hours 11+3=14 14-12=2", "minutes 35+35=70 70-60=10", "Wait"], [W, W, R]),
        ("clocks", ["hours 10+3=13", "hours 10+3=13 13-11=2"], [W, W]),
        ("residues", ["12+8=20 is 0 ends in 3 no"], [W]),
        ("weekdays", ["12+5=17 Wednesday and 4 is Sunday first Friday no"], [W]),
        ("weekdays", ["12+4=16 Wednesday and 4 is Sunday first Friday no"] * 2, [R, W]),
        ("sequences", ["same 27-20=7 31-27=4 38-31=7 42-38=4 yes", "same 27-20=7", "some 27-20=7 no"], [W, U, U]),
        ("logic", ["see Bob was before Kim in Kim Bob Dan no", "see Bob was before Dan in Bob Bob Dan yes"], [W, W]),
    ],
)
def test_verdicts_by_hand(family, lines, wanted):
    assert verdicts(family, PROMPTS[family], lines) == wanted
    assert first_error(family, PROMPTS[family], lines) == (wanted.index(W) if W in wanted else None)


def test_a_step_taken_up_may_stand_at_two_places():
    prompt = "Start with 45.\nAdd 34.\nSubtract 34.\nAdd 34.\nWhat is the result?"
    lines = [
        "Add 34. 45+34=79",
        "Subtract 34. 79-34=45",
        "Add 34. 45+34=79",
        "Wait, check.",
        "Add 34. 45+34=79",
        "so 79",
    ]
    assert verdicts("chains", prompt, lines) == [R] * 6
    assert verdicts("chains", prompt, [*lines[:-1], "Subtract 34. 79-34=45", "so 79"])[-2:] == [R, W]


def test_nothing_is_called_wrong_for_building_on_a_line_that_could_not_be_read():
    garbled = [
        "12+9=21 is Tuesday",
        "21+9=30 is 0 ends in 3 no",
        "30+9=39 is 9 ends in 3 no",
        "39+9=49 is 9 ends in 3 no",
    ]
    assert verdicts("residues", PROMPTS["residues"], garbled) == [U, U, R, W]
    found = ["5*6=30 and 2", "30-2=28 mak", "so (5*6)-2", "so (5*6)+2"]
    assert verdicts("countdown3", PROMPTS["countdown3"], found) == [R, U, U, W]
    for line in ("", " ", "Waits", "see", "Wait, more", "so", "1" * 5000, f"{'1' * 4999}+1=2 and 6"):
        assert verdicts("countdown3", PROMPTS["countdown3"], [line]) == [U], line


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_any_lines_get_verdicts_that_later_lines_do_not_change(data):
    family = data.draw(st.sampled_from(sorted(READERS)))
    problem = data.draw(st.sampled_from(POOL[family]))
    known = [*thinking(problem, checks=1).split("\n"), f"so {problem.answer}", "Wait", "Answer: "]
    pieces = st.lists(st.sampled_from(" ".join(known).split(" ")), max_size=9).map(" ".join)
    lines = data.draw(st.lists(st.sampled_from(known) | pieces | st.text(max_size=30), max_size=12))
    found = verdicts(family, problem.prompt, lines)
    assert len(found) == len(lines)
    for end in range(len(lines)):
        assert verdicts(family, problem.prompt, lines[:end]) == found[:end]
        if lines[end].startswith(("so ", "Answer: ")) and found[end] is R:
            assert check(family, problem.prompt, lines[end].removeprefix("so "))


POOL = {family: drawn(family, 5, ("train",)) for family in READERS}


def test_what_the_model_writes_has_a_wrong_line_exactly_where_its_answer_is_wrong():
    """Greedy, to the natural end: a wrong answer has its first error, a right one has none, giving up needs none."""
    asked = draw_distinct("train", 3, 64).problems
    with Engine(MODEL, device="cpu", dtype="float32", max_num_seqs=64) as engine:
        params = SamplingParams(temperature=0.0, thinking_token_budget=128, max_tokens=200)
        outputs = engine.generate([problem.prompt for problem in asked], params)
    errors = 0
    for problem, output in zip(asked, outputs, strict=True):
        lines = output.outputs[0].reasoning.strip("\n").split("\n")
        found = verdicts(problem.family, problem.prompt, lines)
        right = check(problem.family, problem.prompt, output.outputs[0].answer)
        gave_up = output.outputs[0].answer.endswith("not found")
        assert U not in found, lines
        assert gave_up or (W in found) == (not right), (problem.prompt, lines, found)
        errors += W in found
    assert 0 < errors < 40


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(InputError, match=r"family 'sums' does not exist; there are countdown3, .*logic"):
        verdicts("sums", PROMPTS["clocks"], [])
    for family, prompt in PROMPTS.items():
        assert verdicts(family, prompt, []) == [] and first_error(family, prompt, []) is None
        other = PROMPTS["clocks" if family != "clocks" else "logic"]
        with pytest.raises(InputError, match=f"is no question of {family}; give"):
            first_error(family, other, [])
