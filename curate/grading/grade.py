"""Grading: whether an answer is right, by a rule that fits its type, in bounded time and memory.

Choices are compared as letters, numbers exactly, LaTeX by structure and math-verify in processes that can be killed,
families by their own checkers; what has no rule goes to a judge if there is one. An answer that nothing can grade is
`correct=None`, never right or wrong in silence.
"""

import enum
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from curate.families import FAMILIES, check
from curate.grading.answer_text import (
    LETTERS,
    extract,
    normalise,
    only_number,
    plain_number,
    same_number,
    squeeze,
)
from curate.grading.pool import Pool, Verdict

LONGEST_ANSWER = 1000
"""Characters of an extracted answer; a longer one is wrong by rule `too_long`."""


class AnswerKind(enum.Enum):
    """What decides that an answer is right."""

    CHOICE = "choice"
    """A letter A to J, or the text of the option behind it."""
    NUMBER = "number"
    LATEX = "latex"
    FAMILY = "family"
    """The checker of a question family, from the prompt alone."""
    TEXT = "text"
    """Words: equal as strings, otherwise for a judge."""
    EXACT = "exact"
    """Words of which one spelling is right, such as a name: equal as strings, otherwise wrong, by rule `exact`."""
    AUTO = "auto"
    """By the reference."""


@dataclass(frozen=True)
class Item:
    """One answer to grade. `answer` is the answer part of a response or a bare answer.

    Attributes:
        reference: the right answer; None where there is none (families need none).
        prompt: the question; choices take their options from it, families their numbers.
        family: a key of `curate.families.FAMILIES`, for AnswerKind.FAMILY.
    """

    answer: str
    reference: str | None
    kind: AnswerKind
    prompt: str = ""
    family: str = ""


@dataclass(frozen=True)
class Grade:
    """A verdict. `correct` is None where nothing could grade the item.

    Attributes:
        rule: "extraction/comparison", such as "boxed/number" or "answer_line/math_verify"; or one of `ungradable`,
            `no_answer`, `too_long`; the comparison is `grader_timeout`, `grader_memory`, `grader_depth`, `grader_crash`
            or `grader_error` where it was stopped.
        extracted: what was taken for the answer.
        detail: more about it in words, "" if there is nothing to say.
    """

    correct: bool | None
    rule: str
    extracted: str | None
    detail: str = ""


Judge = Callable[[Sequence[Item]], Sequence[Grade]]
"""Grades what no rule can; gets items whose `answer` is the extracted answer."""


@dataclass(frozen=True)
class _Pair:
    """Left for math-verify: a reference, an answer, and the rule that extracted it."""

    reference: str
    answer: str
    rule: str


@dataclass(frozen=True)
class _Words:
    """Left for a judge: an answer in words."""

    answer: str


class Grader(AbstractContextManager["Grader", None]):
    """Grades items in bulk. Use it as a context manager: its processes end with it, whatever happens inside."""

    def __init__(
        self,
        workers: int = 1,
        time_limit_s: float = 5.0,
        memory_limit_mb: int = 1024,
        judge: Judge | None = None,
        strict: bool = False,
    ) -> None:
        """Processes start at first need.

        Args:
            workers: processes for what the fast rules do not decide.
            time_limit_s: processor seconds of one comparison; the process is killed after that, or after ten times
                as long on the wall.
            memory_limit_mb: address space of a process, in MiB; SymPy alone takes about 300.
            judge: grades words that differ from the reference.
            strict: do not fall back on the last number or letter of a longer text.
        """
        self._pool = Pool(workers, time_limit_s, memory_limit_mb)
        self._judge, self._strict = judge, strict
        self._known: dict[tuple[str, str], Verdict] = {}

    def __exit__(self, *exc: object) -> None:
        self._pool.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the grading processes there are now."""
        return self._pool.pids

    def grade(self, items: Sequence[Item]) -> list[Grade]:
        """Grades in the order of the items. Raises RuntimeError where a grading process cannot start."""
        results = [self._by_rule(item) for item in items]
        new = sorted({(r.reference, r.answer) for r in results if isinstance(r, _Pair)} - self._known.keys())
        self._known.update(zip(new, self._pool.run(new), strict=True))
        grades = [self._settled(r) for r in results]
        judged = [i for i, r in enumerate(results) if isinstance(r, _Words)]
        if self._judge is not None and judged:
            asked = [replace(items[i], answer=grades[i].extracted or "") for i in judged]
            for i, verdict in zip(judged, self._judge(asked), strict=True):
                grades[i] = verdict
        return grades

    def _settled(self, result: Grade | _Pair | _Words) -> Grade:
        if isinstance(result, Grade):
            return result
        if isinstance(result, _Words):
            return Grade(None, "ungradable", result.answer, "words unlike the reference, and no judge")
        verdict = self._known[result.reference, result.answer]
        return Grade(verdict.correct, f"{result.rule}/{verdict.rule}", result.answer, verdict.detail)

    def _by_rule(self, item: Item) -> Grade | _Pair | _Words:
        """The grade, or what is left to do."""
        kind = guess_kind(item) if item.kind is AnswerKind.AUTO else item.kind
        if kind is AnswerKind.FAMILY and item.family not in FAMILIES:
            return Grade(None, "ungradable", None, f"no family {item.family!r}; known: {', '.join(FAMILIES)}")
        if kind is not AnswerKind.FAMILY and (item.reference is None or not item.reference.strip()):
            return Grade(None, "ungradable", None, "no reference answer")
        free = not self._strict
        found = extract(item.answer, free and kind is AnswerKind.NUMBER, free and kind is AnswerKind.CHOICE)
        answer = found.text
        if answer is None:
            return Grade(False, "no_answer", None)
        if len(answer) > LONGEST_ANSWER:
            return Grade(
                False, "too_long", answer[:80], f"{len(answer):,} characters; at most {LONGEST_ANSWER:,} are compared"
            )
        if kind is AnswerKind.FAMILY:
            return _family(item, answer, found.rule)
        reference = reference_answer(item)
        if kind is AnswerKind.CHOICE:
            return _choice(item, reference, answer, found.rule)
        if squeeze(reference) == squeeze(answer):
            return Grade(True, f"{found.rule}/string", answer)
        if kind in (AnswerKind.TEXT, AnswerKind.EXACT):
            return _text(reference, answer, found.rule, kind)
        if kind is AnswerKind.NUMBER and plain_number(answer) is None:
            answer = only_number(answer) or answer
        gold, given = plain_number(reference), plain_number(answer)
        if gold is not None and given is not None:
            return Grade(same_number(gold, given), f"{found.rule}/number", answer)
        return _Pair(reference, answer, found.rule)


def reference_answer(item: Item) -> str:
    """The answer that a reference holds: what is boxed or marked `####` if it is a whole solution, else all of it."""
    found = extract(item.reference or "")
    return found.text if found.rule in ("boxed", "hashes") and found.text else (item.reference or "").strip()


def guess_kind(item: Item) -> AnswerKind:
    """The kind of an AUTO item, from its family and reference."""
    if item.family:
        return AnswerKind.FAMILY
    reference = reference_answer(item)
    if re.fullmatch(rf"\(?[{LETTERS}]\)?", reference):
        return AnswerKind.CHOICE
    if plain_number(reference) is not None:
        return AnswerKind.NUMBER
    letters = re.findall(r"(?<!\\)\b(?!and\b)[A-Za-z]{3,}", re.sub(r"\\[A-Za-z]+(?:\{[A-Za-z ]*\})?", " ", reference))
    return AnswerKind.TEXT if letters and not re.search(r"[\\^_=]", reference) else AnswerKind.LATEX


def _family(item: Item, answer: str, rule: str) -> Grade:
    try:
        return Grade(check(item.family, item.prompt, answer), f"{rule}/family", answer)
    except (ArithmeticError, MemoryError, RecursionError, ValueError) as error:
        return Grade(False, f"{rule}/grader_error", answer, f"{type(error).__name__}: {error}"[:300])


_OPTION = re.compile(rf"(?:^|(?<=\s))(?:\(([{LETTERS}])\)|([{LETTERS}])[).:](?=\s)|(?<=\n)([{LETTERS}])[).])")
LONGEST_OPTIONS = 20_000
"""Characters of a prompt, counted from its end, that are searched for options."""


def options(prompt: str) -> dict[str, str]:
    """Letter to text, in one spelling, of the last list of options in a prompt: "(A) ...", "A) ..." or "A. ..."."""
    prompt = prompt[-LONGEST_OPTIONS:]
    marks = list(_OPTION.finditer(prompt))
    found: dict[str, str] = {}
    for i, mark in enumerate(marks):
        letter = mark[1] or mark[2] or mark[3]
        if letter == LETTERS[0]:
            found = {}
        if letter == LETTERS[len(found) : len(found) + 1]:
            end = marks[i + 1].start() if i + 1 < len(marks) else len(prompt)
            found[letter] = squeeze(prompt[mark.end() : end]).lower()
    return found


def letter_of(text: str, prompt: str = "") -> tuple[str | None, str]:
    """(letter, rule) that an extracted answer names: alone or before the option's text, else by the option's text.

    The rule is "choice", "option_text" or, with letter None, "no_answer".
    """
    text = normalise(text).strip("*_ ")
    alone = re.fullmatch(rf"(?:option |choice )?\(?\s*([{LETTERS}])\s*\)?[.:,;]?", text, re.IGNORECASE)
    if alone:
        return alone[1].upper(), "choice"
    led = re.match(rf"(?:option |choice )?(?:\(([{LETTERS}])\)|([{LETTERS}])[).:,;](?=\s|$))", text)
    if led:
        return led[1] or led[2], "choice"
    same = [letter for letter, option in options(prompt).items() if option == squeeze(text).lower()]
    return (same[0], "option_text") if len(same) == 1 else (None, "no_answer")


def _choice(item: Item, reference: str, answer: str, rule: str) -> Grade:
    gold, _ = letter_of(reference, item.prompt)
    if gold is None:
        return Grade(None, "ungradable", answer, f"the reference {reference[:80]!r} names no option")
    whole = item.answer.strip()  # an option in full, or a letter that leads, says more than the last one in it
    if rule == "last_letter" and len(item.answer) <= LONGEST_ANSWER and letter_of(whole, item.prompt)[0] is not None:
        answer, rule = whole, "whole"
    given, by = letter_of(answer, item.prompt)
    if given is None and options(item.prompt).get(gold) == squeeze(answer).lower():
        given, by = gold, "option_text"  # listed twice; AQuA has such questions
    if given is None:
        return Grade(False, "no_answer", answer, "no option letter and no option's text")
    return Grade(given == gold, f"{rule}/{by}", given)


def _text(reference: str, answer: str, rule: str, kind: AnswerKind) -> Grade | _Words:
    gold, given = (
        re.sub(r"\W+", " ", re.sub(r"\b(?:the|a|an)\b", " ", normalise(text).casefold())).strip()
        for text in (reference, answer)
    )
    same = bool(gold) and gold == given
    return Grade(same, f"{rule}/{kind.value}", answer) if same or kind is AnswerKind.EXACT else _Words(answer)
