"""A model as judge of answers that no rule can compare: blind to which one is the reference."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from curate.grading.grade import Grade, Item
from curate.models.asking import Answer, Ask, Model, Sampling
from curate.models.prompt import Prompt


class Judge:
    """Grades items by asking whether answer and reference are the same; give it to `Grader(judge=...)`."""

    def __init__(self, model: Model, sampling: Sampling | None = None, prompt: Prompt | None = None) -> None:
        """`sampling` is greedy with 1,024 tokens if not given; `prompt` has the fields question, first and second."""
        self._model = model
        self._sampling = sampling or Sampling(max_tokens=1024)
        self._prompt = prompt or Prompt.load("same_answer")

    def __call__(self, items: Sequence[Item]) -> list[Grade]:
        asks = [self._ask(i, item) for i, item in enumerate(items)]
        answers = {int(answer.id): answer for answer in self._model.ask(asks)}
        return [self._grade(item, answers[i]) for i, item in enumerate(items)]

    def _ask(self, number: int, item: Item) -> Ask:
        pair = [item.reference or "", item.answer]
        # Which comes first is settled by the texts, not by their roles: position tells a judge nothing.
        pair.sort(key=lambda text: hashlib.sha256(f"{item.prompt}\0{text}".encode("utf-8", "replace")).digest())
        messages = self._prompt.messages(question=item.prompt, first=pair[0], second=pair[1])
        return Ask(str(number), messages, self._sampling, self._prompt.version)

    def _grade(self, item: Item, answer: Answer) -> Grade:
        rule = f"judge:{self._model.name}"
        if answer.error is not None:
            return Grade(None, "ungradable", item.answer, f"{rule}: {answer.error}: {answer.detail}")
        lines = answer.text.strip().splitlines()
        verdict = re.fullmatch(r"\W*(yes|no)\W*", lines[-1] if lines else "", re.IGNORECASE)
        if verdict is None:
            return Grade(None, "ungradable", item.answer, f"{rule} ended with neither Yes nor No")
        return Grade(verdict[1].lower() == "yes", rule, item.answer, " ".join(lines[:-1])[:500])
