"""Tasks: where the questions of an evaluation come from and what decides that an answer is right."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

from curate.families import check, problems


@dataclass(frozen=True)
class Question:
    """One question. `group` is a finer name inside the task, such as the family; `right` judges an answer's text."""

    id: str
    group: str
    prompt: str
    right: Callable[[str], bool]


@dataclass(frozen=True)
class Task:
    """`draw(count, seed)` gives the questions; the sweep's lists are what `bench.evaluate` runs when told nothing else.

    `budgets` are run without a "Wait", `waits` (how many "Wait"s at most) at a budget of `wait_budget` thinking tokens.
    """

    name: str
    model: str
    draw: Callable[[int, int], Sequence[Question]]
    count: int
    budgets: tuple[int, ...]
    waits: tuple[int, ...]
    wait_budget: int
    answer_tokens: int


def _family_question(number: int, seed: int, family: str, prompt: str) -> Question:
    return Question(f"heldout-{seed}-{number}", family, prompt, lambda answer: check(family, prompt, answer))


def heldout_questions(count: int, seed: int) -> list[Question]:
    """Held-out questions of all families in turn: those that `python -m curate.families --split heldout` writes."""
    drawn = enumerate(islice(problems("heldout", seed), count))
    return [_family_question(number, seed, problem.family, problem.prompt) for number, problem in drawn]


S1_NANO = Task(
    name="s1_nano",
    model="models/s1-nano",
    draw=heldout_questions,
    count=1000,
    budgets=(16, 32, 64, 128, 256, 512),
    waits=(0, 1, 2, 4, 8),
    wait_budget=1024,
    answer_tokens=48,
)
TASKS = {task.name: task for task in (S1_NANO,)}
