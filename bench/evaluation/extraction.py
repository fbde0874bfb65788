r"""The original's extraction, for its published columns only; ours is `curate.grading`'s."""

import re
from typing import Literal

from curate.grading import AnswerKind
from curate.grading.extract import Extracted, last_box

Mode = Literal["strict", "answer", "lenient"]
GraderName = Literal["s1-engine", "s1-grader"]
"""`strict`: only a box, an answer line, `####` or a bare answer; `answer`: also the last number, letter or mathematics
of the answer; `lenient`: where the answer holds none, the same rules over the reasoning."""


def extract_as_s1(answer: str, kind: AnswerKind) -> Extracted:
    r"""What the original's grader takes, faults and all.

    The last `\boxed`, if it is balanced; else everything behind the *first* "answer:"; else the whole text. A choice
    that is no letter becomes A.
    """
    at = answer.rfind(r"\boxed")
    if at >= 0:
        spaced = answer[at:].startswith(r"\boxed ")
        found = Extracted(answer[at + 7 :].split("$", 1)[0] if spaced else last_box(answer[at:]), "s1.boxed")
    elif line := re.search(r"answer\s*:\s*(.*)", answer, re.IGNORECASE | re.DOTALL):
        found = Extracted(line[1].strip(), "s1.first_answer")
    else:
        found = Extracted(answer.strip() or None, "s1.whole")
    if kind is not AnswerKind.CHOICE:
        return found
    letter = re.fullmatch(r"\s*([A-Da-d])\s*", found.text or "")
    return Extracted(letter[1].upper(), found.rule) if letter else Extracted("A", "s1.default_a")
