"""Taking the answer out of a response, phase by phase, and saying by which rule.

The phases are the engine's (answer, then reasoning), never found by searching the text. Within one the order is that of
`curate.grading.answer_text`: the last box, what follows the last "Answer:", GSM8K's `####`, a short answer as it
stands, and in the end the last number or letter of a longer text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bench.evaluation.tasks import LETTERS
from curate.grading.answer_text import LETTERS as CHOICE_LETTERS
from curate.grading.answer_text import extract as extract_text
from curate.grading.answer_text import last_box, squeeze
from curate.grading.grade import AnswerKind

Mode = Literal["strict", "answer", "lenient"]
"""`strict`: only a box, an answer line, `####` or a bare answer; `answer`: also the last number or letter of the
answer; `lenient`: where the answer holds none, the same rules over the reasoning."""


@dataclass(frozen=True)
class Extraction:
    """What was found (None: no answer) and by which rule, such as `answer.boxed` or `reasoning.last_number`."""

    text: str | None
    rule: str


def extract(
    answer: str, reasoning: str, kind: AnswerKind, mode: Mode = "answer", options: Sequence[str] = ()
) -> Extraction:
    """The answer of a response. For a choice it is a letter, also where the option's text was given instead."""
    phases = [("answer", answer)] + ([("reasoning", reasoning)] if mode == "lenient" else [])
    for phase, text in phases:
        loose = mode != "strict"
        found = extract_text(text, loose and kind is AnswerKind.NUMBER, loose and kind is AnswerKind.CHOICE)
        if found.text is None or (phase == "reasoning" and found.rule == "whole"):
            continue  # a trace of one line is not an answer
        if kind is not AnswerKind.CHOICE:
            return Extraction(found.text, f"{phase}.{found.rule}")
        letter, by = choice(found.text, options)
        if letter is not None:
            return Extraction(letter, f"{phase}.{found.rule}{by}")
    return Extraction(None, "no_answer")


def choice(text: str, options: Sequence[str]) -> tuple[str | None, str]:
    """(letter, how it was told) of an extracted choice: alone, before the option's text, or by exactly that text."""
    plain = text.strip().strip("*_ ")
    led = re.match(rf"(?:option |choice )?\(?([{CHOICE_LETTERS}])\)?(?:[.):,;]|\s*$)", plain, re.IGNORECASE)
    if led:
        return led[1].upper(), ""
    same = [letter for letter, option in zip(LETTERS, options, strict=False) if squeeze(option) == squeeze(plain)]
    return (same[0], "+option_text") if len(same) == 1 else (None, "")


def extract_as_s1(answer: str, kind: AnswerKind) -> Extraction:
    r"""What the original's grader takes, faults and all; for its published columns only.

    The last `\boxed`, if it is balanced; else everything behind the *first* "answer:"; else the whole text. A choice
    that is no letter becomes A.
    """
    at = answer.rfind(r"\boxed")
    if at >= 0:
        spaced = answer[at:].startswith(r"\boxed ")
        found = Extraction(answer[at + 7 :].split("$", 1)[0] if spaced else last_box(answer[at:]), "s1.boxed")
    elif line := re.search(r"answer\s*:\s*(.*)", answer, re.IGNORECASE | re.DOTALL):
        found = Extraction(line[1].strip(), "s1.first_answer")
    else:
        found = Extraction(answer.strip() or None, "s1.whole")
    if kind is not AnswerKind.CHOICE:
        return found
    letter = re.fullmatch(r"\s*([A-Da-d])\s*", found.text or "")
    return Extraction(letter[1].upper(), found.rule) if letter else Extraction("A", "s1.default_a")
