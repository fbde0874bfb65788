"""What messages are made of."""

import pytest

from engine.errors import InputError, first_line, refuse


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
