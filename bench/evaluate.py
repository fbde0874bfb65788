"""Accuracy against thinking tokens: budgets (no "Wait") and "Wait"s (one large budget), greedy, through the engine.

    python -m bench.evaluate --task s1_nano --figure accuracy.png

Prints a table with 95 % Wilson intervals and, between neighbouring rows, an exact paired sign test of whether accuracy
fell; appends one JSON line per row to `--results`.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from bench.record import Machine, append
from bench.statistics import discordant, sign_test, wilson
from bench.tasks import TASKS, Question
from engine import Engine, InputError, RequestOutput, SamplingParams


@dataclass(frozen=True)
class Arguments:
    task: Literal["s1_nano"] = "s1_nano"
    model: str | None = None
    """Checkpoint directory or hub id; None: the task's."""
    count: int | None = None
    """Questions; None: the task's number."""
    seed: int = 7
    """Which questions are drawn."""
    budgets: tuple[int, ...] | None = None
    """Thinking budgets to run without a "Wait"; None: the task's."""
    waits: tuple[int, ...] | None = None
    """Numbers of "Wait"s to run; None: the task's."""
    device: str = "cpu"
    dtype: str = "float32"
    max_num_seqs: int = 64
    results: Path | None = None
    """JSONL file that gets one line per row."""
    samples: Path | None = None
    """JSONL file that gets every answer of every row."""
    figure: Path | None = None
    """PNG of accuracy against average thinking tokens."""


@dataclass(frozen=True)
class Condition:
    """One row of the table: a budget, or a number of "Wait"s at the task's large budget."""

    half: Literal["budget", "waits"]
    budget: int
    waits: int

    @property
    def label(self) -> str:
        if self.half == "budget":
            return f"budget {self.budget}"
        return f"{self.waits} Wait{'' if self.waits == 1 else 's'}"


@dataclass(frozen=True)
class Row:
    """The outcome of a condition; the tuples are in the order of the questions."""

    condition: Condition
    groups: tuple[str, ...]
    right: tuple[bool, ...]
    thinking: tuple[int, ...]
    forced_ends: int
    seconds: float

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.right)

    @property
    def mean_thinking(self) -> float:
        """Average thinking tokens (T of the budget-forcing specification)."""
        return sum(self.thinking) / len(self.thinking)

    @property
    def control(self) -> float:
        """Share of samples within the budget (section 3.2 of the paper)."""
        return sum(t <= self.condition.budget for t in self.thinking) / len(self.thinking)

    def by_group(self) -> dict[str, float]:
        """Accuracy of each group of questions."""
        members: dict[str, list[bool]] = defaultdict(list)
        for group, right in zip(self.groups, self.right, strict=True):
            members[group].append(right)
        return {group: sum(found) / len(found) for group, found in members.items()}


def run(
    engine: Engine, questions: Sequence[Question], condition: Condition, answer_tokens: int
) -> tuple[Row, list[RequestOutput]]:
    """Answers every question under `condition`; the row's outcomes and the engine's outputs, in the same order."""
    params = SamplingParams(
        temperature=0.0,
        max_tokens=condition.budget + answer_tokens,
        thinking_token_budget=condition.budget,
        thinking_extensions=condition.waits,
    )
    started = time.perf_counter()
    outputs = engine.generate([question.prompt for question in questions], params)
    samples = [output.outputs[0] for output in outputs]
    row = Row(
        condition=condition,
        groups=tuple(question.group for question in questions),
        right=tuple(question.right(sample.answer) for question, sample in zip(questions, samples, strict=True)),
        thinking=tuple(sample.thinking.tokens for sample in samples),
        forced_ends=sum(sample.thinking.stop_reason == "budget" for sample in samples),
        seconds=time.perf_counter() - started,
    )
    return row, outputs


def fell(before: Row | None, after: Row) -> float | None:
    """p-value of the paired test that accuracy fell between two rows of one half; None for a half's first row."""
    if before is None or before.condition.half != after.condition.half:
        return None
    return sign_test(*discordant(before.right, after.right))


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown."""
    groups = list(rows[0].by_group())
    lines = [
        "| condition | accuracy | 95 % interval | thinking tokens | T ≤ budget | p (fell) | "
        + " | ".join(groups)
        + " |",
        "|---|---|---|---|---|---|" + "---|" * len(groups),
    ]
    for before, row in zip([None, *rows], rows, strict=False):
        low, high = wilson(sum(row.right), len(row.right))
        p = fell(before, row)
        cells = [
            row.condition.label, f"{row.accuracy:.1%}", f"{low:.1%} to {high:.1%}", f"{row.mean_thinking:.0f}",
            f"{row.control:.0%}", "" if p is None else f"{p:.2g}", *(f"{a:.0%}" for a in row.by_group().values()),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Accuracy in percent against average thinking tokens (log scale), both halves, with 95 % intervals, as a PNG."""
    from matplotlib.figure import Figure  # Optional extra: only the figure needs it.

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    styles = {"budget": ("o-", "budgets, no Wait"), "waits": ("s--", "Waits, budget 1,024")}
    for half, (style, label) in styles.items():
        chosen = [row for row in rows if row.condition.half == half]
        if not chosen:
            continue
        x, y = [row.mean_thinking for row in chosen], [100 * row.accuracy for row in chosen]
        bounds = [wilson(sum(row.right), len(row.right)) for row in chosen]
        # max: at 0 % and 100 % the bound is the value itself but for rounding, and matplotlib refuses -1e-17
        errors = [[max(0.0, v - 100 * low) for v, (low, _) in zip(y, bounds, strict=True)],
                  [max(0.0, 100 * high - v) for v, (_, high) in zip(y, bounds, strict=True)]]  # fmt: skip
        axes.errorbar(x, y, yerr=errors, fmt=style, capsize=3, label=label)
        for row, at, value in zip(chosen, x, y, strict=True):
            text = row.condition.budget if half == "budget" else row.condition.waits
            axes.annotate(str(text), (at, value), textcoords="offset points", xytext=(6, -12), fontsize=8)
    axes.set(xscale="log", xlabel="average thinking tokens", ylabel="accuracy (%)", ylim=(0, 100), title=title)
    ticks = (16, 32, 64, 128, 256)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> int:
    arguments = tyro.cli(Arguments, description=__doc__)
    task = TASKS[arguments.task]
    model, count = arguments.model or task.model, arguments.count or task.count
    budgets = task.budgets if arguments.budgets is None else arguments.budgets
    waits = task.waits if arguments.waits is None else arguments.waits
    conditions = [Condition("budget", budget, 0) for budget in budgets]
    conditions += [Condition("waits", task.wait_budget, n) for n in waits]
    questions = task.draw(count, arguments.seed)
    machine = Machine.read(torch.device(arguments.device))
    rows: list[Row] = []
    try:
        engine = Engine(model, device=arguments.device, dtype=arguments.dtype, max_num_seqs=arguments.max_num_seqs)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with engine:
        for condition in conditions:
            row, outputs = run(engine, questions, condition, task.answer_tokens)
            rows.append(row)
            low, high = wilson(sum(row.right), len(row.right))
            case = {"task": task.name, "model": Path(model).name, "questions": count, "seed": arguments.seed,
                    "budget": condition.budget, "waits": condition.waits}  # fmt: skip
            figures = {
                "accuracy": row.accuracy, "low95": low, "high95": high, "thinking_tokens": row.mean_thinking,
                "max_thinking_tokens": float(max(row.thinking)), "control": row.control,
                "p_fell": fell(rows[-2] if len(rows) > 1 else None, row),
                "forced_ends": float(row.forced_ends), "seconds": row.seconds,
            } | {f"accuracy_{group}": value for group, value in row.by_group().items()}  # fmt: skip
            if arguments.results is not None:
                append(machine.record("evaluate", case, figures), arguments.results)
            if arguments.samples is not None:
                with arguments.samples.open("a", encoding="utf-8") as out:
                    for question, output, right in zip(questions, outputs, row.right, strict=True):
                        sample = output.outputs[0]
                        line = {
                            "condition": condition.label, "id": question.id, "prompt": question.prompt,
                            "reasoning": sample.reasoning, "answer": sample.answer, "right": right,
                            "thinking_tokens": sample.thinking.tokens,
                        }  # fmt: skip
                        out.write(json.dumps(line) + "\n")
            progress = f"{row.accuracy:.1%} at {row.mean_thinking:.0f} tokens, {row.seconds:.0f} s"
            print(f"{condition.label}: {progress}", file=sys.stderr)
    print(f"{Path(model).name}, {count} held-out questions, seed {arguments.seed}, greedy\n\n{table(rows)}")
    if arguments.figure is not None:
        draw(rows, f"{Path(model).name}: {count} held-out questions, greedy", arguments.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
