"""Choices as models write them: which letter a response chooses, and when it chooses none."""

import pytest

from curate.grading import AnswerKind, Grader, Item
from curate.grading.letters import choose, options

SHOWN = {"A": "12", "B": "15", "C": "18", "D": "Cannot be determined"}
BEFORE = "Let us see.\n\nFirst, the sum is 18.\n\n"

CHOSEN = [
    *(
        (rf"\boxed{{{box}}}", "C")
        for box in (
            "C",
            r"\text{C}",
            r"\textbf{C}",
            r"\textrm{C}",
            r"\mathcal{C}",
            r"\underline{C}",
            r"\textcolor{red}{C}",
            "C.",
            "C) 18",
            r"\text{(C)}",
            r"\textbf{(C)}\ 18",
            r"\text{C. } 18",
            "C = 18",
            "C (18)",
            r"\text{Option C}",
            "c",
            "``C''",
            r"\bf C",
            "18",
            r"\text{The answer is C}",
            r"\text{C: }18",
        )
    ),
    (r"\boxed C", "C"),
    (r"\boxed{C} and an empty \boxed{}", "C"),
    (r"So I pick C. \boxed{}", "C"),
    (r"\boxed{D) Cannot be determined}", "D"),
    *(
        (line, "C")
        for line in (
            "Answer: C",
            "Answer: $C$",
            "**Answer: C**",
            "Answer: **C**",
            "**Final Answer:** C",
            "Final Answer:\nC",
            "**Final Answer**\n\nC",
            "Final Answer: The correct answer is C.",
            "The correct answer is **C**.",
            "<answer>C</answer>",
            "<answer>\nC\n</answer>",
            "So the answer is option C",
            "The answer is (C) 18.",
            "Answer: 18",
            "Answer: \\(C\\)",
            "The answer to the question is C.",
            "The answer would be C.",
            'Answer: "C"',
            '{"answer": "C"}',
            "Choice: C",
            "| Answer | C |",
            "Answer - C",
            "Answer\uff1aC",
            "Answer: C (18)",
            "Answer: C<|im_end|>",
            "The answer is 18 (C).",
            "C",
            "(C)",
            "**C**",
            "C. 18",
            "Hence, option C is correct.",
            "I choose C.",
            "Therefore, C is the correct answer.",
            "a) is wrong, so c",
            "It is (C), by symmetry.",
            "Answer: C\n\nThe answer is correct.",
            "The answer is C, since A and B are too small.",
            "Neither A nor B, hence C",
            "Answer: C (not A)",
            "Answer: C, not A or B",
            "The answer is not A but C.",
            "A is wrong and B is wrong, so C.",
            "Answer: C\n\nA common wrong answer is B.",
        )
    ),
    ("D) Cannot be determined", "D"),
    ("Answer: A and only A", "A"),
]
NONE = [
    *(
        rf"\boxed{{{box}}}"
        for box in (
            "B, C",
            r"B \text{ and } C",
            r"\text{B or C}",
            "A/B",
            "B; C",
            r"B\ C",
            "B + C",
            r"A \text{ and } C",
            r"\text{Both A and B}",
            r"\text{A or C}",
            "A) 12, C) 18",
            r"A \cup B",
            "x + C",
            "C^2",
            r"20^\circ C",
            "E",
            r"\{B, C\}",
            r"\neg C",
        )
    ),
    "Answer: B and C",
    "Answer: A or C",
    "Answer: both A and C",
    "Answer: A and C because both are 18",
    "Answer: N/A",
    "Answer: 20 \N{DEGREE SIGN}C",
    "Answer: E",
    "Answer: a dog",
    "Answer:",
    "",
    "All of A, B and C are wrong.",
    "Is it C? I do not know.",
    "The answer depends on vitamin C.",
    "Let me see.\nA) 12\nB) 15\nC) 18\nD) Cannot be determined",
]


@pytest.mark.parametrize("before", ["", BEFORE], ids=["alone", "behind text"])
@pytest.mark.parametrize(("response", "letter"), CHOSEN)
def test_a_choice_is_read(response, letter, before):
    found, _ = choose(before + response, SHOWN)
    assert found.text == letter


@pytest.mark.parametrize("before", ["", BEFORE], ids=["alone", "behind text"])
@pytest.mark.parametrize("response", NONE)
def test_no_choice_is_none(response, before):
    assert choose(before + response, SHOWN)[0].text is None


def test_a_letter_that_leads_a_response_counts():
    assert choose("C\n\nExplanation: A is too small, B is too small.", SHOWN)[0].text == "C"


def test_the_reason_of_no_choice_is_told():
    assert choose("Answer: B and C", SHOWN)[1] == "two_letters"
    assert choose("Answer: E", SHOWN)[1] == "no_option" and choose("Answer: E", {})[0].text == "E"
    with Grader() as grader:
        (grade,) = grader.grade([Item("Answer: B and C", "B", AnswerKind.CHOICE, options=tuple(SHOWN.values()))])
    assert (grade.correct, grade.rule, grade.detail) == (False, "two_letters", "more than one letter")


@pytest.mark.parametrize(
    "prompt",
    [
        "Which?\n\n(A) 12\n(B) 15\n(C) both (A) and (B)\n(D) neither (A) nor (B)",
        "Which?\n\nA) 12\nB) 15\nC) both (A) and (B)\nD) neither (A) nor (B)\n\nAnswer with (A), (B), (C) or (D).",
        "Which?\n**A.** 12\n**B.** 15\n**C.** both (A) and (B)\n**D.** neither (A) nor (B)",
        "Which?\na) 12\nb) 15\nc) both (A) and (B)\nd) neither (A) nor (B)",
        r"Which? $\textbf{(A)}\ 12 \qquad \textbf{(B)}\ 15 \qquad \textbf{(C)}\ both \qquad \textbf{(D)}\ neither$",
    ],
)
def test_options_are_read_as_they_are_written(prompt):
    found = options(prompt)
    assert list(found) == list("ABCD") and "12" in found["A"] and "15" in found["B"]
    assert found["C"].lstrip("\\ ").startswith("both") and found["D"].lstrip("\\ ").startswith("neither")
