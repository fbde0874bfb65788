"""What holds for any text: grading never raises, one spelling stays as it is, numbers are what they are."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from curate.grading.compare import equal, plain_number, spelling
from curate.grading.extract import extract, last_box
from curate.grading.grade import AnswerKind, Grader, Item, guess_kind
from curate.grading.letters import letter_of, options

PIECES = st.sampled_from(
    [
        "\\boxed{",
        "\\frac",
        "{",
        "}",
        "\\text{",
        "1",
        "2.5",
        ",",
        "000",
        "Answer:",
        "\n",
        " ",
        "A",
        "(B)",
        "C)",
        "%",
        "\\%",
        "^",
        "²",
        "½",
        "π",
        "$",
        "\\left(",
        "\\circ",
        "####",
        "-",
        "/",
        "e5",
        "\0",
        "\ud800",
        "cm",
        "and",
        ".",
        "\\",
    ]
)
TEXT = st.one_of(st.text(max_size=40), st.lists(PIECES, max_size=25).map("".join))
FAST = (AnswerKind.CHOICE, AnswerKind.TEXT, AnswerKind.FAMILY)


@settings(max_examples=80, deadline=None)
@given(TEXT, TEXT, st.sampled_from(FAST))
def test_grading_never_raises_and_says_why(answer, reference, kind):
    with Grader() as grader:
        (grade,) = grader.grade([Item(answer, reference, kind, prompt=answer + reference, family="countdown3")])
    assert grade.rule and (grade.correct is not None or grade.rule == "ungradable")
    guess_kind(Item(answer, reference, AnswerKind.AUTO))


@settings(max_examples=80, deadline=None)
@given(TEXT, TEXT)
def test_any_text_is_read_or_refused(text, other):
    plain_number(text)
    letter_of(text, options(text))
    box = last_box(text)
    assert box is None or all(part in text for part in box.split(", "))
    found = extract(text, last_number=True, last_math=True)
    assert found.text is None or found.text
    assert spelling(text) == spelling(text.strip())
    assert equal(text, text).correct
    assert equal(text, other).correct == equal(other, text).correct


@given(st.integers(-(10**12), 10**12), st.integers(0, 6))
def test_decimals_are_exact(units, places):
    value = Fraction(units, 10**places)
    sign, digits = "-" if units < 0 else "", str(abs(units)).rjust(places + 1, "0")
    whole, part = digits[: len(digits) - places], digits[len(digits) - places :]
    for written in (f"{sign}{whole}", f"{sign}{int(whole):,}", f"${sign}{whole}"):
        text = written + (f".{part}" if places else "")
        assert plain_number(text) is not None
        assert equal(f"\\frac{{{value.numerator}}}{{{value.denominator}}}", text).correct
    assert not equal(f"{units}e-{places}", f"{units + 1}e-{places}").correct


@given(st.integers(-500, 500), st.integers(1, 500), st.integers(6, 12))
def test_fractions_equal_their_long_decimals_only(top, bottom, places):
    fraction = f"\\frac{{{top}}}{{{bottom}}}"
    rounded = round(Fraction(top, bottom), places)
    decimal = f"{float(rounded):.{places}f}"
    assert equal(fraction, decimal).correct and equal(decimal, fraction).correct
    far = f"{float(rounded + Fraction(2, 10**places)):.{places}f}"
    assert not equal(fraction, far).correct
