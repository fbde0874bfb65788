"""Questions of one's own, from a file with any columns."""

from collections.abc import Mapping
from typing import Any, ClassVar

from curate.columns import Columns
from curate.grading.grade import AnswerKind
from curate.options import with_options
from curate.sources.base import Draft, Info, Source


class Own(Source, frozen=True, kw_only=True, tag="questions"):
    """Rows with a question, and where there is one an answer to grade attempts by; `name` must be given. The same file
    and fields make a task of an evaluation."""

    info: ClassVar[Info] = Info("questions", "", "unknown", ())

    question: str = "question"
    """Column of the question."""
    answer: str | None = "answer"
    """Column of the answer, null: there is none. Of a whole solution what is boxed, or follows `####`, counts; a row
    may leave it empty."""
    kind: str = "auto"
    """What decides that an answer is right: auto, number, latex, choice, text, exact, or python:MODULE.FUNCTION."""
    options: str | None = None
    """Column of the options of a choice, a list; None: `options` or `choices`, where a row has one."""

    def __post_init__(self) -> None:
        Columns(kind=self.kind)  # an unknown kind is refused with the configuration

    @property
    def columns(self) -> Columns:
        return Columns(self.question, self.answer, self.kind, self.options)

    def draft(self, row: Mapping[str, Any]) -> Draft:
        found = self.columns.read(row)
        kind = "none" if found.answer is None and found.kind is not AnswerKind.PYTHON else found.kind.value
        return Draft(
            with_options(found.text, found.options), found.whole, found.answer, kind, family=found.checker or None
        )
