"""The families: right answers pass, others do not, the split is the question's own, and the command holds."""

import itertools
import json
import re
import sys
from itertools import islice

import pytest

from curate.families import FAMILIES, check, problems
from curate.families.__main__ import main
from curate.families.distinct import RanDry, draw_distinct
from curate.families.problem import NOT_FOUND, thinking

COUNT = 400


def drawn(split: str, seed: int, count: int = COUNT):
    return list(islice(problems(split, seed), count))


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_pass_and_earlier_rounds_do_not(family):
    for problem in islice(problems("train", 1, (family,)), 150):
        assert check(family, problem.prompt, problem.answer), problem
        for prefix in ("Answer: ", "Final Answer: "):
            assert check(family, problem.prompt, prefix + problem.answer)
        assert not check(family, problem.prompt, NOT_FOUND) and not check(family, problem.prompt, "")
        for i, stretch in enumerate(problem.rounds):
            assert check(family, problem.prompt, stretch.answer) == (i >= problem.difficulty), problem


@pytest.mark.parametrize("family", FAMILIES)
def test_every_difficulty_is_drawn_by_its_weight(family):
    weights = FAMILIES[family].difficulty
    found = [problem.difficulty for problem in islice(problems("train", 2, (family,)), 600)]
    for difficulty, weight in enumerate(weights):
        share = found.count(difficulty) / len(found)
        assert abs(share - weight) < 0.08, f"difficulty {difficulty}: {share:.2f} of the questions, wanted {weight}"


def test_even_draws_give_later_rounds_their_share():
    """Half the questions with even difficulty: each level gets the mean of its weight and of an equal share."""
    weights = FAMILIES["residues"].difficulty
    found = [problem.difficulty for problem in islice(problems("train", 2, ("residues",), even=0.5), 600)]
    for difficulty, weight in enumerate(weights):
        wanted = (weight + 1 / len(weights)) / 2
        assert abs(found.count(difficulty) / len(found) - wanted) < 0.08, difficulty


def test_the_split_is_decided_by_the_question_and_not_by_the_seed():
    train = {(p.family, p.key) for seed in (0, 1, 2) for p in drawn("train", seed)}
    heldout = {(p.family, p.key) for seed in (0, 1, 2) for p in drawn("heldout", seed)}
    assert not train & heldout
    assert all(p.split == "heldout" for p in drawn("heldout", 3))
    assert [p.prompt for p in drawn("heldout", 4, 40)] == [p.prompt for p in drawn("heldout", 4, 40)]
    assert [p.prompt for p in drawn("heldout", 4, 40)] != [p.prompt for p in drawn("heldout", 5, 40)]


def test_the_same_task_in_another_order_is_on_the_same_side():
    by_key: dict[str, set[str]] = {}
    for problem in islice(problems("train", 3, ("countdown3",)), 4000):
        by_key.setdefault(problem.key, set()).add(problem.prompt)
    assert max(map(len, by_key.values())) > 1, "no two wordings of one task were drawn; the test shows nothing"
    heldout = {p.prompt for p in islice(problems("heldout", 3, ("countdown3",)), 500)}
    assert not heldout & set().union(*by_key.values())


def test_countdown_accepts_exactly_what_brute_force_makes():
    prompt = "Use each of the numbers 3, 4 and 5 once to make 17."
    for a, b, c in itertools.permutations((3, 4, 5)):
        for x, y in itertools.product("+-*", repeat=2):
            for text in (f"({a}{x}{b}){y}{c}", f"{a}{x}({b}{y}{c})"):
                assert check("countdown3", prompt, text) == (eval(text) == 17), text
    for wrong in ("3*4+5+0", "17", "12+5", "3*4+5; 1", "__import__('os')", "3**4-64", "(3*4)+5)", "5/0+3*4"):
        assert not check("countdown3", prompt, wrong)
    assert not check("countdown4", "Use each of 9, 1, 2 and 3 once, with plus and minus only, to make 6.", "9*2/3*1")


def test_chains_against_python():
    for problem in islice(problems("train", 4, ("chains",)), 100):
        text = re.sub(r"Start with (\d+)\.", r"\1", problem.prompt.split("\nWhat")[0].replace("\n", ""))
        text = re.sub(r"Add (\d+)\.", r"+\1", re.sub(r"Subtract (\d+)\.", r"-\1", text))
        for guess in range(eval(text) - 2, eval(text) + 3):
            assert check("chains", problem.prompt, str(guess)) == (guess == eval(text))


def test_residues_against_brute_force():
    for problem in islice(problems("train", 5, ("residues",)), 100):
        start, step = map(int, re.findall(r"\d+", problem.prompt)[:2])
        if "ends" in problem.prompt:
            wanted = [n for n in range(start + step, 2000, step) if str(n).endswith(problem.prompt[-2])]
        else:
            remainder = int(re.search(r"leaves (\d)", problem.prompt)[1])
            wanted = [n for n in range(start + step, 2000, step) if n % 5 == remainder]
        right = [n for n in range(1, 200) if check("residues", problem.prompt, str(n))]
        assert right == wanted[:1]


def test_clocks_and_weekdays_against_a_walk():
    for problem in islice(problems("train", 6, ("clocks",)), 60):
        hour, minute, by_h, by_m = map(int, re.findall(r"\d+", problem.prompt))
        for _ in range(by_h * 60 + by_m):
            minute += 1
            if minute == 60:
                hour, minute = hour % 12 + 1, 0
        assert check("clocks", problem.prompt, f"{hour}:{minute:02d}")
        assert not check("clocks", problem.prompt, f"{hour}:{minute}x")
    names = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
    for problem in islice(problems("train", 6, ("weekdays",)), 60):
        day, step = map(int, re.findall(r"\d+", problem.prompt))
        first, wanted = re.findall("|".join(names), problem.prompt)
        at = names.index(first)
        number = next(day + k for k in range(step, 7 * step, step) if names[(at + k) % 7] == wanted)
        assert [n for n in range(1, 200) if check("weekdays", problem.prompt, str(n))] == [number]


def test_sequences_have_one_continuation():
    for problem in islice(problems("train", 7, ("sequences",)), 200):
        assert [n for n in range(400) if check("sequences", problem.prompt, str(n))] == [int(problem.answer)]


def test_logic_has_one_order():
    for problem in islice(problems("train", 8, ("logic",)), 150):
        names = re.match(r"Runners (\w+), (\w+) and (\w+) ran", problem.prompt).groups()
        right = [order for order in itertools.permutations(names) if check("logic", problem.prompt, ", ".join(order))]
        assert [", ".join(order) for order in right] == [problem.answer]


def test_reasoning_restates_the_question_and_waits_as_often_as_it_is_hard():
    for problem in drawn("train", 9):
        text = thinking(problem)
        assert text.count("Wait") == len(problem.rounds) - 1 >= problem.difficulty
        for line in text.splitlines():
            for left, right in re.findall(r"(\d+[+\-*]\d+)=(\d+)", line):
                if problem.family != "chains" or "Wait" in text.split(line)[0]:
                    assert eval(left) == int(right), f"{problem.prompt}: {line}"


@pytest.mark.parametrize("seed", [pytest.param(7, marks=pytest.mark.slow), 2027])
def test_distinct_questions_keep_the_mix_of_difficulties(seed):
    """The plain draw of the same seed repeats itself; here nothing comes twice, and the easy ones are as many."""
    plain = drawn("heldout", seed, 1000)
    assert len({p.prompt for p in plain}) < 900, "the plain draw does not repeat itself; the test shows nothing"
    found = draw_distinct("heldout", seed, 1000)
    assert len({(p.family, p.key) for p in found.problems}) == len({p.prompt for p in found.problems}) == 1000
    assert all(p.split == "heldout" for p in found.problems) and {p.family for p in found.problems} == set(FAMILIES)
    for difficulty in range(5):
        shares = [sum(p.difficulty == difficulty for p in of) / 1000 for of in (plain, found.problems)]
        assert abs(shares[0] - shares[1]) < 0.04, (difficulty, shares)
    assert ("sequences", 0) in found.dry and "sequences (gave 16 that need 0 Waits)" in found.note


def test_distinct_questions_are_deterministic_and_a_smaller_count_is_their_beginning():
    large = draw_distinct("heldout", 11, 200)
    draw_distinct.cache_clear()
    assert draw_distinct("heldout", 11, 200) == large
    small = draw_distinct("heldout", 11, 64)
    assert small.problems == large.problems[:64] and small.dry == () and small.note == ""
    assert draw_distinct("heldout", 12, 64).problems != small.problems


def test_families_that_run_dry_are_refused_by_name_with_what_they_have():
    with pytest.raises(RanDry, match=r"weekdays: (\d+) distinct heldout questions were found and 900 are"):
        draw_distinct("heldout", 1, 900, ("weekdays",))


@pytest.mark.slow
def test_all_that_two_families_have_can_be_drawn_and_not_one_more():
    """Also where one family's difficulties are spent and another has one that the first does not know."""
    both = ("sequences", "residues")
    with pytest.raises(RanDry, match="sequences, residues: ") as refused:
        draw_distinct("heldout", 1, 2000, both)
    most = int(re.search(r": (\d+) distinct", str(refused.value))[1])
    assert len({p.key for p in draw_distinct("heldout", 1, most, both).problems}) == most
    with pytest.raises(RanDry):
        draw_distinct("heldout", 1, most + 1, both)


@pytest.fixture
def command(monkeypatch):
    """Runs one command line in this process; its exit code."""

    def run(*options: object) -> int:
        monkeypatch.setattr(sys, "argv", ["curate.families", *map(str, options)])
        return main()

    return run


@pytest.mark.parametrize("split", ["heldout", "train"])
def test_command(split, command, tmp_path):
    out = tmp_path / "questions.jsonl"
    assert command("--split", split, "--seed", 7, "--count", 40, "--out", out) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(lines) == 40 and len({line["id"] for line in lines}) == 40
    assert {line["family"] for line in lines} == set(FAMILIES)
    for line in lines:
        assert check(line["family"], line["prompt"], line["answer"])
        extra = {"difficulty", "thinking"} if split == "train" else set()
        assert set(line) == {"id", "family", "prompt", "answer"} | extra


def test_the_command_says_what_ran_dry_and_writes_nothing_where_too_few_are_left(command, capsys, tmp_path):
    options = ("--split", "heldout", "--out", tmp_path / "x", "--families")
    assert command(*options, "sequences", "--count", 40) == 0
    assert "note: no further distinct questions in sequences (gave 16 " in capsys.readouterr().err
    lines = (tmp_path / "x").read_text().splitlines()
    assert len({json.loads(line)["prompt"] for line in lines}) == 40
    (tmp_path / "x").unlink()
    assert command(*options, "weekdays", "--count", 5000) == 2
    said = capsys.readouterr().err
    assert "weekdays: " in said and "5000 are asked for" in said
    assert not (tmp_path / "x").exists()


def test_command_refuses_an_unknown_family(command, capsys, tmp_path):
    assert command("--split", "train", "--families", "riddles", "--out", tmp_path / "x") == 2
    assert "riddles" in capsys.readouterr().err and not (tmp_path / "x").exists()
