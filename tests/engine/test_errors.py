"""What messages are made of."""

import pickle

import pytest

from engine.errors import EngineDead, InputError, first_line, refuse, shown, tell


@pytest.mark.parametrize(
    ("error", "line"),
    [(RuntimeError("\n one\ntwo"), "one"), (RuntimeError(""), "RuntimeError"), (OSError(), "OSError")],
)
def test_an_error_is_told_in_one_line(error, line):
    assert first_line(error) == line


def test_of_several_faults_the_first_is_named():
    refuse((False, "none"), ([], "none"))
    with pytest.raises(InputError, match=r"^second$"):
        refuse((0, "first"), ("so", "second"), (True, "third"))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (10**5000, "<a whole number of about 5,001 digits>"),
        ([1] * 10**6, "[1, 1, 1"),
        (dict.fromkeys(range(10**6), "x"), "{0: 'x', 1: 'x', "),
        ("a" * 10**7, "'aaa"),
        (b"a" * 10**7, "b'aaa"),
        ({"k": [10**5000, "\x1b"]}, r"{'k': [<a whole number of about 5,001 digits>, '\x1b']}"),
        ("\x1b[31m\n\u202e\ud800\x85", r"'\x1b[31m\n\u202e\ud800\x85'"),
        ([[[[[[]]]]]], "[[[[...]]]]"),
    ],
    ids=range(8),
)
def test_values_of_any_size_are_shown_in_a_few_characters(value, told):
    assert shown(value).startswith(told) and len(shown(value)) <= 80 and shown(value).isprintable()


@pytest.mark.parametrize("kind", [InputError, EngineDead])
def test_a_message_is_one_bounded_line_whatever_went_into_it(kind, capsys):
    foreign = "\x1b]0;title\x07\x9b1m\r\n\u2028\u202e\u2066\ufeff\ud800"
    error = kind(f"FILE: {foreign}{'x' * 5000}; the way out")
    escaped = r"FILE: \x1b]0;title\x07\x9b1m\r\n\u2028\u202e\u2066\ufeff\ud800xxx"
    assert str(error).startswith(escaped) and str(error).endswith("x; the way out") and len(str(error)) <= 1000
    assert str(kind(str(error))) == str(error) == str(pickle.loads(pickle.dumps(error)))
    tell(OSError(2, "No such file", "\n" * 5000), "train")
    assert capsys.readouterr().err.startswith(r"train: [Errno 2] No such file: '\n\n\n")
    assert len(first_line(RuntimeError("\x1b" * 10**6))) <= 300
