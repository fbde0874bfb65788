"""The grader's table: pairs that are one answer, pairs that are not, and where answers are found in a response."""

import pytest

from curate.grading.compare import plain_number, spelling
from curate.grading.extract import extract, last_box
from curate.grading.grade import AnswerKind, Grader, Item, guess_kind
from curate.grading.letters import letter_of, options

AUTO, CHOICE, LATEX, NUMBER, TEXT = (
    AnswerKind.AUTO,
    AnswerKind.CHOICE,
    AnswerKind.LATEX,
    AnswerKind.NUMBER,
    AnswerKind.TEXT,
)

# (reference, answer, are they one answer); None: nothing to compare with.
PAIRS = [
    ("25", "025", True),  # AIME writes leading zeros
    ("025", "25", True),
    ("25", "25.0", True),
    ("25", "25.", True),
    ("25", "26", False),
    ("25", "250", False),
    ("25", "-25", False),
    ("10000", "10001", False),  # a relative tolerance of 1e-4 would take this
    ("1000", "1,000", True),
    ("1000", "1{,}000", True),
    ("1000", r"1\,000", True),
    ("1234567", "1,234,567", True),
    ("1011", "10,11", False),
    ("10,11", "1011", False),
    ("0.5", r"\frac12", True),
    (r"\frac{1}{2}", r"\dfrac{1}{2}", True),
    (r"\frac{1}{2}", r"\tfrac12", True),
    (r"\frac{1}{2}", "1/2", True),
    (r"-\frac{1}{3}", r"\frac{-1}{3}", True),
    (r"\frac{1}{2}", r"\frac{2}{1}", False),
    (r"\frac{1}{3}", "0.333333", True),
    (r"\frac{1}{3}", "0.33", False),
    ("0.1234567", "0.1234568", False),  # six places of rounding would take this
    (r"1\frac{1}{2}", "1.5", True),
    ("3 1/2", "7/2", True),
    ("½", "0.5", True),
    (r"50\%", "0.5", True),
    (r"50\%", "50", True),
    ("50", "0.5", False),
    ("5", "500", False),  # 100 times is not a percent sign
    ("500%", "5", True),
    ("5", r"5\text{ cm}", True),
    ("5 cm", "5 m", False),
    ("5 cm", "5 centimeters", True),
    ("5 cm", r"5 \text{ cm}^2", False),
    ("10", r"\$10", True),
    ("10", "$10 dollars", True),
    ("10 dollars", "10 cents", False),
    (r"90^\circ", "90", True),
    ("90 degrees", "90°", True),
    ("100000", "1.0e5", True),
    ("100000", r"10^5", True),
    (r"1.5 \times 10^3", "1500", True),
    ("-3", "3", False),
    ("−3", "-3", True),  # noqa: RUF001  (the minus sign of Unicode)
    (r"\pm 3", "3, -3", True),
    (r"\pm 3", "3", False),
    ("3", "x=3", True),
    ("x=3", "3", True),
    ("x=3", "y=4", False),
    ("x^2=4", "y=4", False),  # in plain text both parse to 0
    ("x^2+y^2=1", "x+y=1", False),
    ("y=2x+1", "2x+1", True),
    ("(x+1)(x-1)", "x^2-1", True),
    ("x+2", "x+3", False),
    (r"\sqrt{8}", r"2\sqrt2", True),
    (r"\sqrt{2}", "√2", True),
    ("x²", "x^2", True),
    ("2²", "22", False),
    ("4", "2²", True),
    (r"\pi", "3.14", False),
    (r"\frac{\pi}{2}", r"\pi/2", True),
    ("(1,2)", "(1, 2)", True),
    ("(1,2)", r"\left(1,2\right)", True),
    ("(1,2)", "(2,1)", False),  # ordered
    ("(1,2)", "[1,2]", False),  # open and closed
    ("(1,2)", r"\{1,2\}", False),
    ("[0,1)", "[0,1]", False),
    (r"(3,\frac{1}{2})", "(3, 0.5)", True),
    (r"\{1,2,3\}", r"\{3,1,2\}", True),  # a set is not ordered
    (r"\{1,2\}", "2, 1", True),
    (r"\{1,2\}", r"\{1,2,3\}", False),
    (r"\{1,1,2\}", r"\{1,2,2\}", False),
    ("1,2", "2 and 1", True),
    ("3 and 4", "4, 3", True),
    (r"(-\infty,3]", r"(-\infty,3)", False),
    (r"(-\infty,3]", r"x \in (-\infty, 3]", True),
    (r"(-\infty,3]", r"x \le 3", True),
    (r"(0,1)\cup(2,3)", r"(2,3)\cup(0,1)", True),
    (r"(0,1)\cup(2,3)", r"(0,1)\cup[2,3)", False),
    ("2516_8", "2516", True),  # the base may be left out,
    ("2516_8", "2516_7", False),  # not changed
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}", False),
    ("12:30", "12:30 pm", True),
    ("12:30", "2:5", True),  # a ratio
    ("12:30", "04:10", False),  # two times of day, though equal as ratios
    (r"\text{Evelyn}", "Evelyn", True),
    (r"\text{east}", "East", True),
    ("", "3", None),
    ("3", "", False),
    ("25", "٢٥", False),  # digits of other scripts are not read
    ("25", "２５", True),  # noqa: RUF001  (full-width ones are)
    ("3", "3\0", True),
]


@pytest.fixture(scope="module")
def grader():
    with Grader(workers=1) as grader:
        yield grader


def test_every_pair_of_the_table(grader):
    grades = grader.grade([Item(answer, reference, AUTO) for reference, answer, _ in PAIRS])
    wrong = [(*pair, grade.rule) for pair, grade in zip(PAIRS, grades, strict=True) if grade.correct is not pair[2]]
    assert not wrong
    assert len(PAIRS) >= 60 and {same for *_, same in PAIRS} == {True, False, None}


def test_every_pair_in_a_box_inside_a_response(grader):
    pairs = [pair for pair in PAIRS if pair[0] and pair[1]]
    text = "First I got $\\boxed{77}$, but no.\nSo the answer is $\\boxed{%s}$. I am sure."
    grades = grader.grade([Item(text.replace("%s", answer), reference, AUTO) for reference, answer, _ in pairs])
    wrong = [(*p, g.rule, g.extracted) for p, g in zip(pairs, grades, strict=True) if g.correct is not p[2]]
    assert not wrong
    assert all(grade.rule.startswith("boxed/") for grade in grades)


def test_two_equal_answers_are_one_comparison(grader):
    first, second = grader.grade([Item("answer: x(x+1)", "x^2+x", LATEX), Item("\\boxed{x(x+1)}", "x^2+x", LATEX)])
    assert first.correct and second.correct
    assert (first.rule, second.rule) == ("answer_line/expression", "boxed/expression")


PROMPT = "Which is it?\n\n(A) two halves\n(B) $\\frac{1}{2}$\n(C) a cat\n(D) 12"


@pytest.mark.parametrize(
    "answer, letter, rule",
    [
        ("B", "B", "whole/choice"),
        ("(b)", "B", "whole/choice"),
        ("\\boxed{\\text{(C)}}", "C", "boxed/choice"),
        ("\\boxed{C}", "C", "boxed/choice"),
        ("Answer: D) 12", "D", "answer_line/choice"),
        ("Answer: 12", "D", "answer_line/option_text"),
        ("**Final Answer:** $\\frac12$", "B", "answer_line/option_text"),
        ("The answer is: a cat", "C", "answer_line/option_text"),
        ("I weighed all of it and it can only be (D), by symmetry.", "D", "last_letter/choice"),
        ("A cat", "C", "whole/option_text"),
        ("I think it is D, as I said", "D", "last_letter/choice"),
        ("B, since A is what I ruled out: a cat has no halves", "B", "whole/choice"),
        ("Answer: A\nOn reflection...\nAnswer: B", "B", "answer_line/choice"),
    ],
)
def test_choices_by_letter_or_option(grader, answer, letter, rule):
    for reference in "ABCD":
        grade = grader.grade([Item(answer, reference, CHOICE, PROMPT)])[0]
        assert (grade.correct, grade.rule, grade.extracted) == (reference == letter, rule, letter)


def test_no_letter_is_no_answer_and_never_a_default(grader):
    for answer in ("", "I cannot say", "Answer: a dog", "Answer:", "E is not F"):
        grade = grader.grade([Item(answer, "A", CHOICE, PROMPT)])[0]
        assert grade.correct is False, (answer, grade)
    with Grader(strict=True) as strict:
        assert strict.grade([Item("It can only be (D), I am sure.", "D", CHOICE)])[0].rule == "no_answer"
        assert strict.grade([Item("So she has 12 of them left in the end.", "12", NUMBER)])[0].correct is False


def test_options_are_read_from_the_prompt():
    assert options(PROMPT) == {"A": "two halves", "B": "$\\frac{1}{2}$", "C": "a cat", "D": "12"}
    assert options("(A) no\nReally?\n(A)36\n(B)15 is (C) not here\n(C)$17") == {
        "A": "36",
        "B": "15 is (C) not here",
        "C": "$17",
    }
    assert options("Is A. Smith right?\nA) yes\nB) no\n") == {"A": "yes", "B": "no"}
    shown = options(PROMPT)
    assert letter_of("a cat", shown) == ("C", "option_text") and letter_of("a", {}) == ("A", "choice")
    assert letter_of("a cat", {}) == (None, "no_answer") and letter_of("E", shown) == (None, "no_option")


@pytest.mark.parametrize(
    "response, text, rule",
    [
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}", "boxed"),
        ("\\boxed{3} or \\boxed {4}", "4", "boxed"),
        ("\\fbox{5}", "5", "boxed"),
        ("\\boxed{6} then \\boxed{7", "6", "boxed"),  # the last one that closes
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}", "boxed"),
        ("\\boxed{}", None, "no_answer"),
        ("Answer: 12", "12", "answer_line"),
        ("Final Answer: 12\n", "12", "answer_line"),
        ("Answer: 1\nAnswer: 2\nbye", "2", "answer_line"),
        ("**Answer:** 3", "3", "answer_line"),
        ("Work.\n#### 1,234", "1,234", "hashes"),
        ("12", "12", "whole"),
        ("so she has 5 and he has\n7 apples in all", "7", "last_number"),
        ("  \n ", None, "no_answer"),
    ],
)
def test_where_the_answer_is(response, text, rule):
    found = extract(response, last_number=True)
    assert (found.text, found.rule) == (text, rule)


def test_a_box_that_never_closes_is_no_box():
    assert last_box("\\boxed{3") is None and last_box("{}" * 10) is None


def test_gsm8k_gold_and_full_solutions(grader):
    gold = "She sold 48/2 = <<48/2=24>>24 clips in May.\n#### 72"
    for answer, right in (
        ("Answer: 72", True),
        ("72 clips", True),
        ("Answer: $72 in all", True),
        ("Answer: 24", False),
        (gold, True),
        ("Answer: 24 or 72", False),
        ("In May and in April she sold 72 of them.", True),
    ):
        assert grader.grade([Item(answer, gold, NUMBER)])[0].correct is right
    wrong = Item("Answer: 24", "So it is $\\boxed{72}$, as was to be shown.", AUTO)
    assert grader.grade([wrong])[0].correct is False, "the reference is what its solution boxes"
    assert grader.grade([Item("24", gold, AUTO)])[0].correct is False


def test_words_need_a_judge_unless_they_are_the_reference(grader):
    item = Item("Answer: the Mitochondria.", "mitochondria", TEXT)
    assert grader.grade([item])[0].correct is True
    other = Item("Answer: the powerhouse", "mitochondria", TEXT)
    grade = grader.grade([other])[0]
    assert (grade.correct, grade.rule, grade.extracted) == (None, "ungradable", "the powerhouse")


def test_no_reference_is_ungradable_and_visible(grader):
    for reference in (None, "", "  "):
        for kind in (AUTO, CHOICE, NUMBER, LATEX, TEXT):
            grade = grader.grade([Item("12", reference, kind)])[0]
            assert (grade.correct, grade.rule) == (None, "ungradable") and "reference" in grade.detail
    assert grader.grade([Item("12", "12", AnswerKind.FAMILY, family="nope")])[0].correct is None
    assert grader.grade([Item("A", "no letter", CHOICE, PROMPT)])[0].correct is None


@pytest.mark.parametrize(
    "reference, kind",
    [
        ("B", CHOICE),
        ("(C)", CHOICE),
        ("12", NUMBER),
        ("1,234.5", NUMBER),
        ("5 cm", NUMBER),
        (r"\frac{1}{2}", NUMBER),
        (r"\sqrt{2}", LATEX),
        ("x+1", LATEX),
        ("(1,2)", LATEX),
        (r"\text{Evelyn}", LATEX),
        ("the mitochondria", TEXT),
    ],
)
def test_auto_goes_by_the_reference(reference, kind):
    assert guess_kind(Item("", reference, AUTO)) is kind


def test_one_spelling():
    assert spelling(r"$\left( \dfrac12 \right)$.") == spelling(r"(\frac12)")
    assert plain_number("1/0") is None and plain_number("9" * 500) is None and plain_number("") is None
