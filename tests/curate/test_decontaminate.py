"""Decontamination: what must be caught, what must pass, and how fast."""

import json
import time

import numpy as np
import polars as pl
import pytest

from curate.config import Decontaminate, Evaluation
from curate.selection.decontaminate import decontaminate, load_evaluations
from curate.table_io import DATA
from engine.errors import InputError

TARGET = (
    "A baker sells 12 loaves of rye bread every weekday and 30 on Saturday. Each loaf costs 4 dollars, and flour for "
    "one loaf costs 1 dollar. On Sunday the shop is closed. How many dollars does the baker earn in a week after "
    "paying for flour?"
)
STOCK = (
    "what is the ratio of the area of",
    "the greatest integer less than or equal to",
    "where m and n are relatively prime positive integers. Find m + n.",
)


def questions(texts):
    rows = [(f"s/{i}", str(i), text) for i, text in enumerate(texts)]
    return pl.DataFrame(rows, schema={"row_id": pl.String, "qid": pl.String, "question": pl.String}, orient="row")


def evaluations(texts, private=False):
    rows = [(f"test/{i}", text, private) for i, text in enumerate(texts, start=1)]
    schema = {"evaluation": pl.String, "question": pl.String, "private": pl.Boolean}
    return pl.DataFrame(rows, schema=schema, orient="row")


def outcome(texts, against, **settings):
    made, matches = decontaminate(questions(texts), evaluations(against), Decontaminate(**settings))
    return made["rule"].to_list(), made["evidence"].to_list(), matches


def copies():
    sentences = TARGET.split(". ")
    return {
        "exact": TARGET,
        "case and punctuation": TARGET.upper().replace(",", ";"),
        "a sentence in front": "Read this twice. " + TARGET,
        "names changed": TARGET.replace("baker", "grocer").replace("rye bread", "wheat bread"),
        "numbers changed": TARGET.replace("12", "14").replace("30", "28"),
        "words put in": TARGET.replace("Each loaf", "Now each such loaf").replace("a week", "one single week"),
        "end cut off": TARGET[: int(len(TARGET) * 0.8)],
        "reordered": ". ".join([*sentences[1:-1][::-1], sentences[0], sentences[-1]]),
    }


def test_scored_catches_copies_edited_copies_and_a_reordered_one():
    made = copies()
    rules, evidence, _ = outcome([*made.values(), "How many legs have 3 dogs and 2 hens?"], [TARGET])
    assert dict(zip(made, rules, strict=False)) == {
        name: "scored:equal" if name in ("exact", "case and punctuation") else "scored:coverage" for name in made
    }
    assert rules[-1] == "kept" and all(e.startswith("test/1, coverage ") for e in evidence[:-1])


UNSPACED = {
    "Chinese": (
        "小明有12个苹果和30个橘子,他每天吃掉4个苹果,并且送给同学3个橘子。请问五天以后小明还剩下多少个水果?",
        {"小明": "小红", "并且送给同学": "还送给了朋友"},
        "一个长方形花园的周长是36米,长比宽多4米。如果沿着花园的四周每隔2米种一棵树,一共需要种多少棵树?",
    ),
    "Japanese": (
        "太郎さんはりんごを12個とみかんを30個もっています。毎日りんごを4個食べると、何日後になくなりますか。",
        {"太郎さん": "花子さん", "何日後に": "何日たつと"},
        "たての長さが8センチ、よこの長さが5センチの長方形の面積をもとめ、その半分の大きさを答えなさい。",
    ),
    "Thai": (
        "สมชายมีแอปเปิ้ล 12 ผลและส้ม 30 ผล เขากินแอปเปิ้ลวันละ 4 ผล ถามว่าอีกกี่วันแอปเปิ้ลจึงจะหมด",
        {"สมชาย": "สมหญิง", "ถามว่าอีก": "อยากทราบว่า"},
        "สวนรูปสี่เหลี่ยมผืนผ้ามีความยาวรอบรูป 36 เมตร ด้านยาวมากกว่าด้านกว้าง 4 เมตร จงหาพื้นที่ของสวนนี้",
    ),
}


@pytest.mark.parametrize("language", UNSPACED)
def test_characters_are_the_words_of_a_script_without_spaces(language):
    target, changes, other = UNSPACED[language]
    copy = target
    for before, after in changes.items():
        assert before in copy
        copy = copy.replace(before, after)
    rules, _, _ = outcome([copy, other], [target])
    assert rules == ["scored:coverage", "kept"]


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (mine, "Find the sine of 60^\\circ.")
        for mine in ("Find the sine of 60°", "find the sine of $60^{\\circ}$!", "Find the sine of 60 degrees.")
    ]
    + [("Solve x² − 2πx ≤ 10⁻³", r"Solve $x^2 - 2\pi x \leq 10^{-3}$"), ("求解x的值:2x=7", "求解x的值：２ｘ＝７")],  # noqa: RUF001
)
def test_what_is_typeset_otherwise_is_the_same(mine, theirs):
    assert outcome([mine, "Find the sine of 61°"], [theirs])[0] == ["scored:equal", "kept"]


def test_a_short_question_is_compared_as_a_whole():
    short = "How many primes lie between 10 and 50?"
    rules, _, _ = outcome(
        [
            "How many primes lie between 50 and 10?",
            "How many primes are between 10 and 500?",
            "How many primes lie between 10 and 50 ?",
            "how MANY primes lies between 10 and 50?",
        ],
        [short],
    )
    assert rules == ["scored:fuzzy", "kept", "scored:equal", "scored:fuzzy"]


@pytest.mark.parametrize("phrase", STOCK)
def test_stock_phrases_pass_scored_and_are_caught_by_s1(phrase):
    mine = f"In a garden with paths of stone and grass along a wall, {phrase} the pond and the lawn together?"
    theirs = (
        f"Two circles of radius 3 and 5 meet in a square of side 14 so that their centres lie on a diagonal, and "
        f"another line crosses both of them at right angles to it near the corner; {phrase} the regions left inside?"
    )
    assert outcome([mine], [theirs])[0] == ["kept"]
    rules, evidence, matches = outcome([mine], [theirs], rule="s1")
    assert rules == ["s1:s1"] and phrase.split()[2].lower() in evidence[0]
    assert matches["coverage"][0] < 0.5


def test_a_phrase_many_questions_share_does_not_count_however_much_it_covers():
    boilerplate = "Solve the crossword puzzle clue that is given below with the number of letters in brackets behind it"
    pool = [
        f"{boilerplate}: {word}"
        for word in (
            "river of France (5)",
            "king of Mali (4)",
            "a tree (3)",
            "sound of a bell (4)",
            "old coin (6)",
            "part of a ship (4)",
            "city in Peru (4)",
            "small bird (4)",
            "Greek letter (3)",
            "kind of cheese (4)",
            "poet of Rome (4)",
            "metal (4)",
            "grain (3)",
            "dance (5)",
            "fish (3)",
            "stone (4)",
            "wind (7)",
            "cap (5)",
            "rope (5)",
            "drum (5)",
            "lake (4)",
            "nut (6)",
            "moth (4)",
        )
    ]
    rules, _, _ = outcome([*pool, f"{boilerplate}: capital of Norway (4)"], [f"{boilerplate}: capital of Norway (4)"])
    assert rules == ["kept"] * len(pool) + ["scored:equal"]


def test_both_rules_leave_their_evidence():
    _, _, matches = outcome([TARGET, "x y"], [TARGET])
    assert sorted(matches["rule"].to_list()) == ["equal", "s1"]
    s1 = matches.filter(pl.col("rule") == "s1").row(0, named=True)
    assert s1["coverage"] == 1.0 and s1["run"] == len(TARGET.split()) and s1["ngram"].startswith("a baker sells 12")


def test_s1_never_matches_a_question_of_seven_words():
    seven = "one two three four five six seven"
    assert outcome([seven], [seven], rule="s1")[0] == ["kept"]
    assert outcome(
        ["ONE two  three four five six seven EIGHT"], ["one two three four five six seven eight nine"], rule="s1"
    )[0] == ["s1:s1"]


def test_text_of_a_private_set_is_in_no_evidence():
    made, matches = decontaminate(questions([TARGET, "Say: " + TARGET]), evaluations([TARGET], True), Decontaminate())
    assert made["keep"].to_list() == [False, False]
    for text in [*made["evidence"], *matches["ngram"].drop_nulls()]:
        assert "loaf" not in text and "baker" not in text


def test_progress_is_told_of_every_row():
    for against in ([TARGET], []):
        told = []
        decontaminate(questions([TARGET, "x y", "z"] * 3), evaluations(against), Decontaminate(), told.append)
        assert sum(told) == 9 and len(told) == (4 if against else 1)


def test_nothing_against_nothing():
    assert outcome([TARGET], [])[0] == ["kept"]
    assert outcome([], [TARGET])[0] == []
    assert outcome(["", "?"], ["", "?!"])[0] == ["kept", "kept"]


def test_evaluation_sets_must_be_whole(tmp_path):
    path = tmp_path / "eval.jsonl"
    path.write_text('\ufeff{"problem": "a"}\n{"problem": "b"}\n')
    assert load_evaluations((Evaluation(name="e", path=str(path), field="problem"),))["evaluation"].to_list() == [
        "e/1",
        "e/2",
    ]
    with pytest.raises(InputError, match=r"eval\.jsonl:1: no text in field 'question'"):
        load_evaluations((Evaluation(name="e", path=str(path)),))
    with pytest.raises(InputError, match="give either path or heldout"):
        load_evaluations((Evaluation(name="e"),))
    assert load_evaluations((Evaluation(name="e", heldout=5),)).height == 5


def made_up(rng, count, words):
    """`count` questions of so many words; as in real text a few words are very common and most are rare."""
    vocabulary = np.array(
        [a + b + c for a in "bcdfgklm" for b in "aeiou" for c in ("n", "rt", "sk", "l", "mp", "st", "x", "ch")]
    )
    drawn = vocabulary[np.minimum(rng.pareto(0.4, (count, words)).astype(int), len(vocabulary) - 1)]
    return [
        f"{' '.join(row[:-10])} {n} {' '.join(row[-10:])}?"
        for row, n in zip(drawn.tolist(), rng.integers(1000, size=count).tolist(), strict=True)
    ]


@pytest.mark.parametrize("size", [6_000, pytest.param(60_000, marks=pytest.mark.slow)])
def test_sixty_thousand_questions_against_a_thousand_in_ten_seconds(size):
    rng = np.random.default_rng(3)
    pool, tests = made_up(rng, size, 50), made_up(rng, size // 60, 35)
    for i in range(50):
        pool[i * 100] = "Now. " + tests[i]
    frame, against = questions(pool), evaluations(tests)
    before = time.process_time()
    made, _ = decontaminate(frame, against, Decontaminate())
    seconds = time.process_time() - before
    dropped = set(made.filter(~pl.col("keep"))["row_id"])
    assert dropped >= {f"s/{i * 100}" for i in range(50)} and len(dropped) < 60
    # Processor time of all threads: what a busy machine cannot change.
    assert seconds < 10


@pytest.mark.skipif(not (DATA / "gsm8k").is_dir(), reason="S1_DATA has no gsm8k; the real files are not here")
def test_gsm8k_holds_a_few_edited_copies_of_its_test_set():
    train, test = (
        [json.loads(line)["question"] for line in (DATA / "gsm8k" / f"{name}.jsonl").open()]
        for name in ("train", "test")
    )
    rules, _, matches = outcome(train, test)
    caught = {train[i][:40] for i, rule in enumerate(rules) if rule != "kept"}
    assert "A train travels 270 miles in 3 hours. At" in caught and len(caught) < 12
    # s1's rule drops ten times as many, for phrases such as "how much money will she have left".
    assert matches.filter(pl.col("rule") == "s1").height > 5 * len(caught)
