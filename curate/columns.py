"""Questions of one's own: which columns of a file hold what, for curation and evaluation alike."""

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.grading.checker import PREFIX
from curate.grading.grade import AnswerKind, Item, guess_kind, reference_answer
from curate.grading.letters import LETTERS, letter_of
from curate.row import RowError, optional_text, text
from engine.errors import InputError, shown

KINDS = ("auto", "number", "latex", "choice", "text", "exact")
"""Kinds of answers, besides a function of one's own."""
_OPTIONS = ("options", "choices")


@dataclass(frozen=True)
class Question:
    """A row. `whole`: what stands in the answer's column, of which `answer` is what is boxed, or follows `####`."""

    text: str
    whole: str | None
    answer: str | None
    kind: AnswerKind
    options: tuple[str, ...] = ()
    checker: str = ""


@dataclass(frozen=True)
class Columns:
    """Names of the columns, and the kind of the answers: one of `KINDS`, or `python:module.function`. `answer` None:
    there are none. Without `options` they are those of a column `options` or `choices`, where a row has one. Raises
    InputError for an unknown kind."""

    question: str = "question"
    answer: str | None = "answer"
    kind: str = "auto"
    options: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS and not self.kind.startswith(PREFIX):
            near = difflib.get_close_matches(self.kind, KINDS, n=1)
            meant = f"did you mean {near[0]}? " if near else ""
            raise InputError(
                f"kind is {shown(self.kind)}; {meant}known: {', '.join(KINDS)}, and {PREFIX}MODULE.FUNCTION"
            )

    @property
    def checker(self) -> str:
        """The function that judges, `module.function`; "" where rules do."""
        return self.kind.removeprefix(PREFIX) if self.kind.startswith(PREFIX) else ""

    def read(self, row: Mapping[str, Any]) -> Question:
        """The question of a row. Raises RowError, naming the column, where the row does not hold one."""
        for name in filter(None, (self.question, self.answer)):
            if name not in row:
                null = "" if name == self.question else "; where there are no answers give answer: null"
                raise RowError(f"column {name!r} is missing; the row has {', '.join(map(str, row)) or 'none'}{null}")
        asked, whole = text(row, self.question), optional_text(row, self.answer) if self.answer else None
        found = self._options(row)
        for column, said in (
            (self.question, asked),
            (self.answer, whole or ""),
            (self.options or "options", "".join(found)),
        ):
            if not is_unicode(said):
                raise RowError(f"column {column!r} holds a lone surrogate, which is not valid Unicode")
        if self.checker:
            return Question(asked, whole, whole, AnswerKind.PYTHON, found, self.checker)
        kind = AnswerKind.CHOICE if found and self.kind == "auto" else AnswerKind(self.kind)
        item = Item("", whole, kind, asked, options=found)
        if kind is AnswerKind.AUTO and whole is not None:
            kind = guess_kind(item)
        answer = None if whole is None else reference_answer(item)
        if kind is AnswerKind.CHOICE and answer is not None:
            letter, _ = letter_of(answer, item.shown)
            if letter is None or (item.shown and letter not in item.shown):
                among = f"no letter and no text of its {len(item.shown)} options; give the letter, A for the first one"
                alone = "no letter, and the question shows no options; name their column, options: COLUMN"
                raise RowError(f"column {self.answer!r} is {answer[:60]!r}, which is {among if item.shown else alone}")
            answer = letter
        return Question(asked, whole, answer, kind, found)

    def _options(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        if self.options is not None and self.options not in row:
            raise RowError(f"column {self.options!r} is missing; the row has {', '.join(map(str, row))}")
        name = self.options or next((name for name in _OPTIONS if row.get(name)), None)
        if name is None or (self.options is None and self.kind not in ("auto", "choice")):
            return ()
        value = row[name]
        try:
            value = json.loads(value) if isinstance(value, str) else value  # a CSV file's
        except ValueError:
            value = None
        if isinstance(value, Mapping):  # {"A": ...}, or as ARC has it {"text": [...], "label": [...]}
            value = value.get("text", list(value.values()))
        if not isinstance(value, (list, tuple)) or not 2 <= len(value) <= len(LETTERS):
            raise RowError(
                f"column {name!r} is {str(row[name])[:60]!r}; a list of 2 to {len(LETTERS)} texts is needed, in CSV "
                "as JSON"
            )
        return tuple(
            _without_letter(str(option).strip(), letter) for option, letter in zip(value, LETTERS, strict=False)
        )


def with_options(question: str, options: Sequence[str]) -> str:
    """What is asked: the question, with options a blank line below it as lines `A) ...`; alike in training and
    evaluation."""
    lines = map("{}) {}".format, LETTERS, options)
    return "\n".join((question, "", *lines)) if options else question


def is_unicode(text: str) -> bool:
    """Whether `text` can be written to a file; JSON can spell half a character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _without_letter(option: str, letter: str) -> str:
    for mark in (f"({letter})", f"{letter})", f"{letter}.", f"{letter}:"):
        if option.startswith(mark) and option != mark:
            return option.removeprefix(mark).strip()
    return option
