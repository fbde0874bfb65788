"""What the answers of one problem are to a vote: read out as grading reads them, and equal as it finds them equal."""

import threading
from collections.abc import Sequence

from bench.evaluation.prompts import item_of
from bench.evaluation.tasks import Problem
from curate.families import NOT_FOUND
from curate.grading.compare import canonical
from curate.grading.grade import AnswerKind, Grade, Grader, Item
from engine.search.branch import Branch


class Booth:
    """A grader that several searches share, from any thread."""

    def __init__(self, grader: Grader) -> None:
        self._grader, self._lock = grader, threading.Lock()

    def grade(self, item: Item) -> Grade:
        """The verdict on one item."""
        with self._lock:
            return self._grader.grade([item])[0]


class Ballot:
    """The answers of one problem. What is read does not depend on the reference; `right` is for oracles."""

    def __init__(self, problem: Problem, booth: Booth) -> None:
        self._problem, self._booth = problem, booth
        self._grades: dict[str, Grade] = {}
        self._same: dict[tuple[str, str], bool] = {}

    def answers(self, branches: Sequence[Branch]) -> list[str | None]:
        """The answer of each branch that has ended; None: it has none, or says that nothing was found."""
        return [self.read(branch.answer) for branch in branches]

    def read(self, text: str) -> str | None:
        """What grading takes for the answer of a response's answer part; None: nothing that votes."""
        answer = self._grade(text).extracted
        return None if self._problem.kind is AnswerKind.FAMILY and (answer or "").strip() == NOT_FOUND else answer

    def right(self, text: str) -> bool:
        """Whether the answer part of a response is right."""
        return self._grade(text).correct is True

    def same(self, first: str, second: str) -> bool:
        """Whether two answers are one. Of families and options by their spelling, otherwise as if the first one were
        the reference."""
        if (first, second) not in self._same:
            self._same[first, second] = canonical(first) == canonical(second) or self._equal(first, second)
        return self._same[first, second]

    def _equal(self, first: str, second: str) -> bool:
        kind = self._problem.kind
        if kind in (AnswerKind.FAMILY, AnswerKind.CHOICE):
            return False
        return self._booth.grade(Item(second, first, kind)).correct is True

    def _grade(self, text: str) -> Grade:
        if text not in self._grades:
            self._grades[text] = self._booth.grade(item_of(self._problem, text))
        return self._grades[text]
