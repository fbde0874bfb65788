"""Grading: whether an answer is right, by a rule that fits its type, in bounded time and memory.

Choices are compared as letters, numbers exactly, LaTeX by what it was read as in processes that can be killed, families
by their own checkers or the user's; what has no rule goes to a judge if there is one. An answer that nothing can grade
is `correct=None`, never right or wrong in silence.
"""

import enum
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from curate.families import FAMILIES, check
from curate.grading.compare import equal, plain_number, spelling
from curate.grading.extract import extract, mathematics, readable
from curate.grading.letters import LETTERS, choose, letter_of, options
from curate.grading.pool import Pool, Verdict
from curate.grading.reader import whole_in_words
from curate.grading.tokens import plain

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
    """Words of which one is right, such as a name: equal but for case, articles and punctuation, otherwise wrong."""
    PYTHON = "python"
    """A function of one's own, see `curate.grading.checker`."""
    AUTO = "auto"
    """By the reference."""


@dataclass(frozen=True)
class Item:
    """One answer to grade. `answer` is the answer part of a response or a bare answer.

    Attributes:
        reference: the right answer; None where there is none (families need none).
        prompt: the question; choices take their options from it, families their numbers.
        family: a key of `curate.families.FAMILIES`, for AnswerKind.FAMILY; `module.function` for AnswerKind.PYTHON.
        options: what a choice is among, A first; empty: what the prompt shows.
    """

    answer: str
    reference: str | None
    kind: AnswerKind
    prompt: str = ""
    family: str = ""
    options: Sequence[str] = ()

    @property
    def shown(self) -> Mapping[str, str]:
        """Letter to text of the options; empty where they are not known."""
        return dict(zip(LETTERS, self.options, strict=False)) or options(self.prompt)


@dataclass(frozen=True)
class Grade:
    """A verdict. `correct` is None where nothing could grade the item.

    Attributes:
        rule: "extraction/comparison", such as "boxed/number" or "answer_line/expression"; or one of `ungradable`,
            `no_answer`, `too_long`; the comparison is `grader_timeout`, `grader_memory`, `grader_depth`, `grader_crash`
            or `grader_error` where it was stopped.
        extracted: what was taken for the answer.
        detail: more about it in words, "" if there is nothing to say.
        read_as: what reference and answer were read as; "" where they were not, or compared as text.
    """

    correct: bool | None
    rule: str
    extracted: str | None
    detail: str = ""
    read_as: tuple[str, str] = ("", "")


Judge = Callable[[Sequence[Item]], Sequence[Grade]]
"""Grades what no rule can; gets items whose `answer` is the extracted answer."""


@dataclass(frozen=True)
class _Left:
    """Left for a process: what it is asked (see `Pool.run`), the answer, and the rule that extracted it."""

    asked: tuple[str, ...]
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
            memory_limit_mb: address space of a process, in MiB.
            judge: grades words that differ from the reference.
            strict: do not fall back on the last number or letter of a longer text.
        """
        self._pool = Pool(workers, time_limit_s, memory_limit_mb)
        self._judge, self._strict = judge, strict
        self._known: dict[tuple[str, ...], Verdict] = {}

    def __exit__(self, *exc: object) -> None:
        self._pool.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """Process ids of the grading processes there are now."""
        return self._pool.pids

    def grade(self, items: Sequence[Item]) -> list[Grade]:
        """Grades in the order of the items. Raises RuntimeError where a grading process cannot start."""
        results = [self._by_rule(item) for item in items]
        new = sorted({r.asked for r in results if isinstance(r, _Left)} - self._known.keys())
        self._known.update(zip(new, self._pool.run(new), strict=True))
        grades = [self._settled(r) for r in results]
        judged = [i for i, r in enumerate(results) if isinstance(r, _Words)]
        if self._judge is not None and judged:
            asked = [replace(items[i], answer=grades[i].extracted or "") for i in judged]
            for i, verdict in zip(judged, self._judge(asked), strict=True):
                grades[i] = verdict
        return grades

    def _settled(self, result: Grade | _Left | _Words) -> Grade:
        if isinstance(result, Grade):
            return result
        if isinstance(result, _Words):
            return Grade(None, "ungradable", result.answer, "words unlike the reference, and no judge")
        verdict = self._known[result.asked]
        rule = f"{result.rule}/{verdict.rule}"
        return Grade(verdict.correct, rule, result.answer, verdict.detail, (verdict.gold, verdict.given))

    def _by_rule(self, item: Item) -> Grade | _Left | _Words:
        """The grade, or what is left to do."""
        kind = AnswerKind(item.kind)  # or its name, which is refused where there is none such
        kind = guess_kind(item) if kind is AnswerKind.AUTO else kind
        if kind is AnswerKind.FAMILY and item.family not in FAMILIES:
            return Grade(None, "ungradable", None, f"no family {item.family!r}; known: {', '.join(FAMILIES)}")
        if kind is AnswerKind.PYTHON:
            said = extract(item.answer).text or item.answer.strip()
            asked = item.family, item.answer, item.reference or "", item.prompt
            return _Left(asked, said[:LONGEST_ANSWER], "own") if said else Grade(False, "no_answer", None)
        if kind is not AnswerKind.FAMILY and (item.reference is None or not item.reference.strip()):
            return Grade(None, "ungradable", None, "no reference answer")
        if kind is AnswerKind.CHOICE:
            return _choice(item, self._strict)
        free = not self._strict
        fits = readable if kind in (AnswerKind.NUMBER, AnswerKind.LATEX) else None
        found = extract(item.answer, free and kind is AnswerKind.NUMBER, free and kind is AnswerKind.LATEX, fits)
        answer = found.text
        if answer is None:
            return Grade(False, "no_answer", None)
        if len(answer) > LONGEST_ANSWER:
            return _too_long(answer)
        if kind is AnswerKind.FAMILY:
            return _family(item, answer, found.rule)
        reference = reference_answer(item)
        if kind in (AnswerKind.TEXT, AnswerKind.EXACT):
            same = spelling(reference) == spelling(answer)
            return Grade(True, f"{found.rule}/string", answer) if same else _text(reference, answer, found.rule, kind)
        reference, answer = mathematics(reference), mathematics(answer)
        if plain_number(reference) is not None and plain_number(answer) is not None:  # at once, and in this process
            compared = equal(reference, answer)
            read_as = compared.gold, compared.given
            return Grade(compared.correct, f"{found.rule}/{compared.rule}", answer, "", read_as)
        if spelling(reference) == spelling(answer):
            return Grade(True, f"{found.rule}/string", answer)
        return _Left((reference, answer), answer, found.rule)


def _too_long(answer: str) -> Grade:
    return Grade(False, "too_long", answer[:80], f"{len(answer):,} characters; at most {LONGEST_ANSWER:,} are compared")


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
    prose = letters and not re.search(r"[\\^_=]", reference) and not whole_in_words(reference)
    return AnswerKind.TEXT if prose else AnswerKind.LATEX


def _family(item: Item, answer: str, rule: str) -> Grade:
    try:
        return Grade(check(item.family, item.prompt, answer), f"{rule}/family", answer)
    except (ArithmeticError, MemoryError, RecursionError, ValueError) as error:
        return Grade(False, f"{rule}/grader_error", answer, f"{type(error).__name__}: {error}"[:300])


def _choice(item: Item, strict: bool) -> Grade:
    gold, _ = letter_of(reference_answer(item), item.shown)
    if gold is None:
        return Grade(None, "ungradable", None, f"the reference {(item.reference or '')[:80]!r} names no option")
    found, by = choose(item.answer, item.shown, strict)
    if found.text is None:
        said = extract(item.answer).text
        if said is not None and item.shown and spelling(item.shown.get(gold, "")).lower() == spelling(said).lower():
            return Grade(True, f"{extract(item.answer).rule}/option_text", gold)  # listed twice, as AQuA has it
        return Grade(False, by if by != "no_answer" else "no_answer", None, _NO_CHOICE[by])
    return Grade(found.text == gold, f"{found.rule}/{by}", found.text)


_NO_CHOICE = {
    "no_answer": "no option letter and no option's text",
    "two_letters": "more than one letter",
    "no_option": "a letter beyond the options",
}


def _text(reference: str, answer: str, rule: str, kind: AnswerKind) -> Grade | _Words:
    gold, given = (
        re.sub(r"\W+", " ", re.sub(r"\\[a-z]+|\b(?:the|a|an)\b", " ", plain(text).casefold())).strip()
        for text in (reference, answer)
    )
    same = bool(gold) and gold == given
    return Grade(same, f"{rule}/{kind.value}", answer) if same or kind is AnswerKind.EXACT else _Words(answer)
