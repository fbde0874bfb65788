"""What holds for any text: grading never raises, one spelling stays as it is, numbers are what they are."""

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from curate.grading.answer_text import extract, last_box, normalise, plain_number, same_number, squeeze
from curate.grading.grade import AnswerKind, Grader, Item, guess_kind, letter_of, options

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
@given(TEXT)
def test_one_spelling_is_final(text):
    assert squeeze(squeeze(text)) == squeeze(text) or "\\" in text
    assert normalise(text) == normalise(normalise(text)) or "\\" in text or "^" in text
    plain_number(text)
    letter_of(text, text)
    options(text)
    box = last_box(text)
    assert box is None or box in text
    found = extract(text, last_number=True, last_letter=True)
    assert found.text is None or found.text


@given(st.integers(-(10**12), 10**12), st.integers(0, 6))
def test_decimals_are_exact(units, places):
    value = Fraction(units, 10**places)
    sign, digits = "-" if units < 0 else "", str(abs(units)).rjust(places + 1, "0")
    whole, part = digits[: len(digits) - places], digits[len(digits) - places :]
    for written in (f"{sign}{whole}", f"{sign}{int(whole):,}", f"${sign}{whole}"):
        number = plain_number(written + (f".{part}" if places else ""))
        assert number is not None and number.value == value
    given = plain_number(f"{units + 1}e-{places}")
    assert given is not None and not same_number(plain_number(f"{units}e-{places}"), given)


@given(st.integers(-500, 500), st.integers(1, 500), st.integers(6, 12))
def test_fractions_equal_their_long_decimals_only(top, bottom, places):
    fraction = plain_number(f"\\frac{{{top}}}{{{bottom}}}")
    assert fraction is not None and fraction.value == Fraction(top, bottom)
    rounded = round(Fraction(top, bottom), places)
    decimal = plain_number(f"{float(rounded):.{places}f}")
    assert decimal is not None and same_number(fraction, decimal) and same_number(decimal, fraction)
    far = plain_number(f"{float(rounded + Fraction(2, 10**places)):.{places}f}")
    assert far is not None and not same_number(fraction, far)
