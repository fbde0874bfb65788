"""Questions of one's own: which columns of a file hold what, for curation and evaluation alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

from curate.grading.checker import PREFIX
from curate.grading.grade import AnswerKind, Item, guess_kind, reference_answer
from curate.grading.letters import letter_of
from curate.options import Options, read_options
from curate.row import RowError, optional_text, text
from engine.errors import InputError, shown
from engine.struct_error import choices

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
            raise InputError(f"kind is {shown(self.kind)}{choices(self.kind, KINDS)}, and {PREFIX}MODULE.FUNCTION")

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
        asked, whole = text(row, self.question), _answer(row, self.answer) if self.answer else None
        options = self._options(row)
        found = options.texts
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
            shown_there = item.shown
            letter = options.letter(answer) if found else letter_of(answer, shown_there)[0]
            if letter is None or (shown_there and letter not in shown_there):
                among = f"no letter and no text of its {len(shown_there)} options; give the letter, A for the first one"
                alone = "no letter, and the question shows no options; name their column, options: COLUMN"
                raise RowError(f"column {self.answer!r} is {answer[:60]!r}, which is {among if shown_there else alone}")
            answer = letter
        return Question(asked, whole, answer, kind, found)

    def _options(self, row: Mapping[str, Any]) -> Options:
        if self.options is not None and self.options not in row:
            raise RowError(f"column {self.options!r} is missing; the row has {', '.join(map(str, row))}")
        name = self.options or next((name for name in _OPTIONS if row.get(name)), None)
        if name is None or (self.options is None and self.kind not in ("auto", "choice")):
            return Options()
        return read_options(row[name], name)


def _answer(row: Mapping[str, Any], column: str) -> str | None:
    """The answer as text; None where there is none. Raises RowError for what is no single value."""
    value = row[column]
    if isinstance(value, float) and not isfinite(value):  # what Parquet has where a number is missing
        return None
    if isinstance(value, (bytes, list, tuple, dict)):
        raise RowError(f"column {column!r} is {str(value)[:60]!r}; a text or a number is needed")
    return optional_text(row, column)


def is_unicode(text: str) -> bool:
    """Whether `text` can be written to a file; JSON can spell half a character."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
