"""The quick form of `make fuzz`: every target, a few cases that are always the same, and those that failed once."""

import pytest
from hypothesis import HealthCheck, given, settings

from tests.fuzz.contract import Broken, check_line, promise
from tests.fuzz.targets import TARGETS
from tests.fuzz.values import cut, edited


@pytest.mark.parametrize("target", [t for t in TARGETS if t.quick], ids=lambda target: target.name)
def test_bad_input_is_one_line(target):
    for case in target.known:
        target.run(case)
    settings(
        max_examples=target.quick,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )(given(target.cases)(target.run))()


@pytest.mark.parametrize("text", ["", "a\nb", "\x1b[31m", "x" * 1001, "\u202e", "\ud800"])
def test_lines_that_break_the_promise_are_found(text):
    with pytest.raises(Broken):
        check_line(text)


def test_other_errors_are_found():
    with pytest.raises(ZeroDivisionError):
        promise(lambda: 1 / 0)


def test_edits_spoil_what_they_say():
    base = {"a": [1, {"b": 2}]}
    assert edited(base, [(("a", 1, "b"), "set", "NaN"), (("gone", 0), "set", "1")]) == '{"a": [1, {"b": NaN}]}'
    assert edited(base, [(("a",), "twice", "3")]) == '{"a": [1, {"b": 2}], "a": 3}'
    assert edited(base, [(("a", 0), "delete", ""), (("c",), "set", "[")]) == '{"a": [{"b": 2}], "c": [}'
    assert edited(base, [((), "set", "[" * 3)]) == "[[["
    assert cut(b"abcdef", [("drop", 5000, 2), ("flip", 0, 1), ("end", 9999, 1)]) == b"`bc"
