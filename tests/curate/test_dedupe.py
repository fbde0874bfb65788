"""Duplicates: what is one, what only looks like one, and which of two stays."""

import random

import polars as pl
import pytest

from curate.config import Dedupe
from curate.normalise import question_id
from curate.selection.dedupe import dedupe, jaccard, likeness, near_duplicates
from curate.selection.shingles import shingles
from curate.words import words

LONG = (
    "A farmer has 17 sheep and 4 dogs in a field beside the river. Every morning 3 of the sheep walk to the hill and "
    "come back before noon. How many animals stay in the field while they are away?"
)


def table(*texts):
    return pl.DataFrame(
        {"row_id": [f"s/{i}" for i in range(len(texts))], "qid": [question_id(t) for t in texts], "question": texts}
    )


def rules(*texts, **settings):
    return dedupe(table(*texts), Dedupe(**settings))["rule"].to_list()


def test_same_text_in_other_clothes_is_exact_and_the_first_row_stays():
    made = dedupe(table(LONG, LONG.upper(), "  " + LONG.replace(" ", "\n"), "Other?"), Dedupe())
    assert made["keep"].to_list() == [True, False, False, True]
    assert made["rule"].to_list() == ["kept", "exact_duplicate", "exact_duplicate", "kept"]
    assert made["evidence"][2] == "same text as s/0"


def test_a_few_words_changed_is_near_and_the_similarity_is_the_true_one():
    other = LONG.replace("A farmer", "The farmer")
    made = dedupe(table(LONG, other), Dedupe())
    a, b = (
        set(zip(*(w[i:] for i in range(5)), strict=False))
        for w in (table(t).select(words("question")).item().to_list() for t in (LONG, other))
    )
    true = len(a & b) / len(a | b)
    assert made["rule"].to_list() == ["kept", "near_duplicate"]
    assert made["evidence"][1] == f"Jaccard {round(true, 4)} with s/0"
    assert rules(LONG, other, jaccard=true + 0.001) == ["kept", "kept"]


def test_other_numbers_are_another_question_unless_told_otherwise():
    assert rules(LONG, LONG.replace("17", "18")) == ["kept", "kept"]
    assert rules(LONG, LONG.replace("17", "18"), same_numbers=False, jaccard=0.7) == ["kept", "near_duplicate"]


def test_what_is_typeset_otherwise_is_near_and_a_changed_character_of_many_is_too():
    turned = LONG.replace("the hill", "the hill at 60° and x² > 4")
    assert rules(turned, turned.replace("60°", "$60^{\\circ}$").replace("x²", "x^2"))[1] == "near_duplicate"
    chinese = "小明有十二个苹果和三十个橘子,他每天吃掉四个苹果,并且送给同学三个橘子。请问五天以后小明还剩下多少个水果?"
    assert rules(chinese, chinese.replace("请问", "试问"), chinese[:20])[1:] == ["near_duplicate", "kept"]


def test_a_sign_makes_another_question():
    assert rules("Solve x+1=3", "Solve x-1=3") == ["kept", "kept"]


def test_questions_on_one_passage_are_not_duplicates():
    rng = random.Random(1)
    vocabulary = [f"{a}{b}" for a in "bcdfghjk" for b in ("al", "en", "ir", "ot", "un")]
    passage = " ".join(rng.choice(vocabulary) for _ in range(300))
    first = passage + " Which statement does the author of the passage agree with most?"
    second = passage + " What follows if the second claim of the passage were shown to be wrong?"
    assert rules(first, second) == ["kept", "kept"]
    assert rules(first, first.replace("most", "best")) == ["kept", "near_duplicate"]
    assert rules(first, first.replace(vocabulary[3], "zzz", 1)) == ["kept", "near_duplicate"]


def test_a_row_resembling_a_dropped_row_only_is_kept():
    steps = [LONG]
    for old, new in (("farmer", "woman"), ("river", "lake"), ("hill", "wood"), ("noon", "night"), ("morning", "day")):
        steps.append(steps[-1].replace(old, new))
    made = dedupe(table(*steps), Dedupe(jaccard=0.7))
    kept = made.filter("keep")["row_id"].to_list()
    for row in made.filter(~pl.col("keep")).iter_rows(named=True):
        assert row["evidence"].split()[-1] in kept


def test_candidates_miss_no_pair_that_brute_force_finds():
    rng = random.Random(7)
    base = [
        " ".join(
            rng.choice(("red", "blue", "sun", "sea", "tree", "bird", "stone", "road")) + str(rng.randrange(9))
            for _ in range(40)
        )
        for _ in range(60)
    ]
    texts = list(base)
    for text in base:
        parts = text.split()
        for _ in range(rng.randrange(1, 4)):
            parts[rng.randrange(40)] = "moon"
        texts.append(" ".join(parts))
    questions = table(*texts)
    found = shingles(questions.select(words("question")).to_series(), 5)
    dropped = set()
    for i in range(len(texts)):
        if any(likeness(found.of(i), found.of(j)) >= 0.8 for j in range(i) if j not in dropped):
            dropped.add(i)
    near = near_duplicates(questions, Dedupe(same_numbers=False))
    assert dropped and set(near["row_id"]) == {f"s/{i}" for i in dropped}


def test_progress_is_told_of_every_row():
    told = []
    texts = [LONG, LONG, LONG.replace("A farmer", "The farmer"), "Other?", "Another one?", LONG.upper()]
    dedupe(table(*texts), Dedupe(), told.append)
    assert sum(told) == len(texts) and len(told) > 2


def test_empty_and_wordless_questions():
    assert rules("", "?!", "...") == ["kept", "kept", "kept"]
    assert dedupe(table("?"), Dedupe())["keep"].to_list() == [True]


def test_shingles_are_the_words_of_the_text():
    texts = pl.Series([["a", "b", "c"], ["a"], [], ["a", "b", "c", "d"]], dtype=pl.List(pl.String))
    found = shingles(texts, 3)
    assert found.offsets.tolist() == [0, 1, 2, 2, 4]
    assert found.first.tolist() == [0, 0, 0, 1] and found.words.tolist() == [3, 1, 0, 4]
    assert found.of(0)[0] == found.of(3)[0] != found.of(3)[1] != found.of(1)[0]


@pytest.mark.parametrize(("a", "b", "value"), [([1, 2], [2, 3], 1 / 3), ([1], [1, 1], 1.0), ([], [], 0.0)])
def test_jaccard(a, b, value):
    import numpy as np

    assert jaccard(np.array(a, dtype=np.uint64), np.array(b, dtype=np.uint64)) == pytest.approx(value)
