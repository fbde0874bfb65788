"""`python -m bench.demo`: eight held-out questions, three budgets, Waits 0 and 2, and what they do to the accuracy.

All eight and 56 more are answered in batches. Then the thinking of two of the eight is shown live under every setting,
forced tokens marked, first one that "Wait" repairs, and the accuracies stand in a small table. Some ten seconds on two
CPU cores.
"""

from dataclasses import dataclass

import torch
from rich.console import Console

from bench.command import check as check_flags
from bench.command import columns, command
from bench.evaluation import methods, tasks
from bench.statistics import wilson
from curate.families import check
from engine import Engine
from engine.command.view import StreamView

DEFAULTS = methods.Defaults(
    temperature=0.0, top_p=1.0, samples=1, max_tokens=2048, answer_tokens=48, min_answer_tokens=1, thinking_format=None
)
CONDITIONS = (
    *methods.Budget(budgets=(16, 64, 256)).conditions(DEFAULTS),
    *methods.Extensions(extensions=(0, 2), budget=1024).conditions(DEFAULTS),
)


@dataclass(frozen=True)
class Options:
    """Which model answers, and which questions."""

    model: str = "models/s1-nano"
    """Checkpoint directory or hub id."""
    seed: int = 7
    """Which held-out questions are drawn."""
    live: int = 2
    """Questions of the eight that are shown as they are thought about, under every setting."""
    count: int = 64
    """Questions of the table; the first eight have a mark each, right or wrong."""
    device: str = "auto"


def show(engine: Engine, console: Console, problem: tasks.Problem) -> None:
    """Streams one question under every setting."""
    for condition in CONDITIONS:
        console.rule(f"{problem.group} · {condition.label}", style="dim")
        console.print(problem.question, style="cyan", markup=False)
        view = StreamView(console, 1)
        for delta in engine.stream(problem.question, condition.params):
            view.delta(delta)
            if delta.output is not None:
                view.end(delta.output)
                right = check(problem.family, problem.question, delta.output.outputs[0].answer)
                console.print("right" if right else "wrong", style="green" if right else "red")


def main(options: Options) -> None:
    """Show some of the questions, answer all, and print the table."""
    check_flags(
        not 1 <= options.count <= 100_000 and f"--count is {options.count}; give 1 to 100,000",
        not 0 <= options.live <= 8 and f"--live is {options.live}; give 0 to 8",
    )
    torch.set_num_threads(min(2, torch.get_num_threads()))
    console = Console(highlight=False)
    problems = tasks.load(tasks.TaskSpec(name="s1_nano", count=max(options.count, 8), seed=options.seed)).problems
    shown = columns(
        *("setting", "eight questions", "all", "95 % interval", "thinking tokens"),
        title=f"the eight questions and {len(problems) - 8} more",
    )
    with Engine(options.model, device=options.device) as engine:
        marks = []
        for condition in CONDITIONS:
            outputs = engine.generate([problem.question for problem in problems], condition.params)
            pairs = [(problem, output.outputs[0]) for problem, output in zip(problems, outputs, strict=True)]
            found = [check(problem.family, problem.question, sample.answer) for problem, sample in pairs]
            marks.append(found)
            low, high = wilson(sum(found), len(found))
            shown.add_row(
                condition.label,
                "".join("✓" if one else "·" for one in found[:8]),
                f"{sum(found) / len(found):.0%}",
                f"{low:.0%} to {high:.0%}",
                f"{sum(sample.thinking.tokens for _, sample in pairs) / len(pairs):.0f}",
            )
        *_, without, waited = marks
        repaired = sorted(range(8), key=lambda at: waited[at] <= without[at])  # those that "Wait" repairs first
        for at in repaired[: options.live]:
            show(engine, console, problems[at])
    console.print(shown)


if __name__ == "__main__":
    command(Options, main)
