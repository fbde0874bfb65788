"""Answers in many writings: all writings of one answer are equal, both ways round, and no two answers of a kind are."""

import random
from itertools import combinations, permutations
from pathlib import Path

import pytest
import yaml

from curate.grading.compare import equal

CLASSES = yaml.safe_load((Path(__file__).parent / "grading_classes.yaml").read_text(encoding="utf-8"))


def pairs(kind, most):
    """(equal pairs, unequal pairs) of a kind, no more of one than of the other."""
    same = [pair for writings in CLASSES[kind] for pair in permutations(writings, 2)]
    other = [(a, b) for one, two in combinations(CLASSES[kind], 2) for a in one for b in two]
    draw = random.Random(kind)
    size = min(len(same), len(other), most)
    return draw.sample(same, size), draw.sample(other, size)


@pytest.mark.parametrize("most", [16, pytest.param(400, marks=pytest.mark.slow)], ids=["some", "many"])
@pytest.mark.parametrize("kind", CLASSES)
def test_writings_of_one_answer_are_equal_and_of_two_are_not(kind, most):
    same, other = pairs(kind, most)
    missed = [(a, b, equal(a, b)) for a, b in same if not equal(a, b).correct]
    taken = [(a, b, equal(a, b)) for a, b in other if equal(a, b).correct or equal(b, a).correct]
    assert not taken
    assert not missed
