"""`python -m bench.demo`: eight held-out questions, three budgets, Waits 0 and 2, and what they do to the accuracy.

The thinking of two questions is shown live under every setting, forced tokens marked; then all eight and 24 more are
answered in batches and the accuracies put into a small table. About two minutes on two CPU cores.
"""

import sys
from dataclasses import dataclass

import torch
import tyro
from rich.console import Console
from rich.table import Table

from bench.evaluate import Condition, run
from bench.statistics import wilson
from bench.tasks import S1_NANO, Question
from engine import Engine, InputError, SamplingParams
from engine.view import StreamView

CONDITIONS = (
    *(Condition("budget", budget, 0) for budget in (16, 64, 256)),
    *(Condition("waits", S1_NANO.wait_budget, waits) for waits in (0, 2)),
)


@dataclass(frozen=True)
class Arguments:
    model: str = S1_NANO.model
    """Checkpoint directory or hub id."""
    seed: int = 7
    """Which held-out questions are drawn."""
    live: int = 2
    """Questions of the eight that are shown as they are thought about, under every setting."""
    count: int = 64
    """Questions of the table; the first eight are those listed."""
    device: str = "auto"


def show(engine: Engine, console: Console, question: Question) -> None:
    """Streams one question under every setting."""
    for condition in CONDITIONS:
        console.rule(f"{question.group} · {condition.label}", style="dim")
        view = StreamView(console, 1)
        view.question(1, question.prompt)
        params = SamplingParams(
            max_tokens=condition.budget + S1_NANO.answer_tokens,
            thinking_token_budget=condition.budget,
            thinking_extensions=condition.waits,
        )
        for delta in engine.stream(question.prompt, params):
            view.delta(delta)
            if delta.output is not None:
                view.end(delta.output)
                verdict = "right" if question.right(delta.output.outputs[0].answer) else "wrong"
                console.print(verdict, style="green" if verdict == "right" else "red")


def main() -> int:
    arguments = tyro.cli(Arguments, description=__doc__)
    torch.set_num_threads(min(2, torch.get_num_threads()))
    console = Console(highlight=False)
    questions = S1_NANO.draw(max(arguments.count, 8), arguments.seed)
    eight = questions[:8]
    try:
        engine = Engine(arguments.model, device=arguments.device)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with engine:
        for question in eight[: arguments.live]:
            show(engine, console, question)
        rows = [run(engine, questions, condition, S1_NANO.answer_tokens)[0] for condition in CONDITIONS]
    shown = Table(title=f"the eight questions and {len(questions) - 8} more")
    for name in ("setting", "eight questions", "all", "95 % interval", "thinking tokens"):
        shown.add_column(name, justify="left" if name == "setting" else "right")
    for row in rows:
        low, high = wilson(sum(row.right), len(row.right))
        marks = "".join("✓" if right else "·" for right in row.right[:8])
        share, interval = f"{row.accuracy:.0%}", f"{low:.0%} to {high:.0%}"
        shown.add_row(row.condition.label, marks, share, interval, f"{row.mean_thinking:.0f}")
    console.print(shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
