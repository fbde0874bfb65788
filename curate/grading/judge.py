"""A model as judge of answers that no rule can compare: blind to which is the reference, and asked both ways round."""

import re
from collections.abc import Sequence

from curate.grading.grade import Grade, Item
from curate.models.asking import Answer, Ask, Model, Sampling
from curate.models.prompt import Prompt


class Judge:
    """Grades items by asking whether answer and reference are the same; give it to `Grader(judge=...)`.

    Each pair is shown in both orders, and only two equal verdicts count: what a judge thinks of a place in the prompt
    decides nothing. The model's store keeps the verdicts, so grading again asks nothing twice.
    """

    def __init__(self, model: Model, sampling: Sampling | None = None, prompt: Prompt | None = None) -> None:
        """`sampling` is greedy with 1,024 tokens if not given; `prompt` has the fields question, first and second."""
        self.name = model.name
        self._model = model
        self._sampling = sampling or Sampling(max_tokens=1024)
        self._prompt = prompt or Prompt.load("same_answer")

    def __call__(self, items: Sequence[Item]) -> list[Grade]:
        asks = [
            Ask(
                f"{i} {order}",
                self._prompt.messages(question=item.prompt, first=pair[order], second=pair[1 - order]),
                self._sampling,
                self._prompt.version,
            )
            for i, item in enumerate(items)
            for pair in [(item.reference or "", item.answer)]
            for order in (0, 1)
        ]
        answers = {answer.id: answer for answer in self._model.ask(asks)}
        return [self._grade(item, [answers[f"{i} {order}"] for order in (0, 1)]) for i, item in enumerate(items)]

    def _grade(self, item: Item, answers: Sequence[Answer]) -> Grade:
        rule = f"judge:{self.name}"
        verdicts = []
        for answer in answers:
            if answer.error is not None:
                return Grade(None, "ungradable", item.answer, f"{rule}: {answer.error}: {answer.detail}")
            lines = answer.text.strip().splitlines()
            verdict = re.fullmatch(r"\W*(yes|no)\W*", lines[-1] if lines else "", re.IGNORECASE)
            if verdict is None:
                return Grade(None, "ungradable", item.answer, f"{rule} ended with neither Yes nor No")
            verdicts.append((verdict[1].lower() == "yes", " ".join(lines[:-1])[:500]))
        (same, why), (again, _) = verdicts
        if same != again:
            return Grade(None, "judge_undecided", item.answer, f"{rule} says another thing with the answers swapped")
        return Grade(same, rule, item.answer, why)
