"""An optional blind judge: whether two answers mean the same, asked both ways round, never told which is right.

s1's judge sees the reference as option 1 at temperature 0.5. This one is asked about A and B and about B and A at
temperature 0; only two equal verdicts count. Verdicts are kept in a file, so that a regrade asks nothing twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from curate.grading.grade import Grade, Item

QUESTION = (
    "Two answers to the same question are given. Say whether they are the same answer: equal in meaning or value, "
    "whatever their form, units written or left out.\n\nQuestion:\n{question}\n\nAnswer A:\n{a}\n\nAnswer B:\n{b}\n\n"
    "Reply with the single word yes or no."
)


@dataclass(frozen=True)
class Judge:
    """`ask` sends one message to a pinned model and returns its reply; `file` keeps the verdicts."""

    name: str
    ask: Callable[[str], str]
    file: Path
    known: dict[str, bool | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file.exists():
            for line in self.file.read_text(encoding="utf-8").splitlines():
                entry = json.loads(line)
                if entry["judge"] == self.name:
                    self.known[entry["question"]] = entry["verdict"]

    def grade(self, items: Sequence[Item]) -> list[Grade]:
        """Verdicts on items that no rule could grade; None where the two ways round disagree."""
        return [self._grade(item) for item in items]

    def _grade(self, item: Item) -> Grade:
        first = self._verdict(item.prompt, item.reference or "", item.answer)
        second = self._verdict(item.prompt, item.answer, item.reference or "")
        if first is None or first != second:
            return Grade(None, "judge_undecided", item.answer, "the judge's two verdicts are not the same yes or no")
        return Grade(first, "judge", item.answer, self.name)

    def _verdict(self, question: str, a: str, b: str) -> bool | None:
        text = QUESTION.format(question=question, a=a, b=b)
        if text not in self.known:
            reply = self.ask(text).strip().lower().rstrip(".!")
            self.known[text] = {"yes": True, "no": False}.get(reply)
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps({"judge": self.name, "question": text, "verdict": self.known[text]}) + "\n")
        return self.known[text]
