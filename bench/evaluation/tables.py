"""A report as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown(report: Mapping[str, Any]) -> str:
    """Every task's tables: conditions, samples taken together, methods, families."""
    lines = [f"# {report['model']}: accuracy against thinking tokens", ""]
    if report["grader"] == "s1-grader":
        lines += [
            'Graded as the original did (`s1-grader`: first "Answer:", A for a missing letter, no judge). '
            "These figures are for comparison with its published columns only.",
            "",
        ]
    elif report["mode"] != "answer":
        lines += [f"Answers taken out in the mode `{report['mode']}`.", ""]
    if report["missing_samples"]:
        lines += [f"**Incomplete: {report['missing_samples']:,} samples of the grid are missing.**", ""]
    for task in report["tasks"]:
        lines += [f"## {task['task']}, {task['problems']:,} problems", ""]
        if task["note"]:
            lines += [f"Note: {task['note']}.", ""]
        lines += [*conditions(task), ""]
        if any(row.get("at_k") for row in task["conditions"]):
            lines += [*together(task), ""]
        if task["methods"]:
            lines += [*methods(task), ""]
        if any(row["groups"] for row in task["conditions"]):
            lines += [*groups(task), ""]
        tokens = task["tokens"]
        if tokens["independent"] != tokens["generated"]:
            lines += [
                f"Generated: {tokens['generated']:,} tokens, where each condition by itself would have generated "
                f"{tokens['independent']:,}, {tokens['ratio']:.2f} times as many.",
                "",
            ]
    return "\n".join(lines).rstrip() + "\n"


def summary(report: Mapping[str, Any]) -> str:
    """The few columns that a README needs: accuracy, interval, tokens, Control, the paired test; below, what of the
    tables is one line."""
    lines: list[str] = []
    for task in report["tasks"]:
        lines += [f"{report['model']} on {task['problems']:,} problems of {task['task']}:", ""]
        rows = [
            [
                row["condition"],
                _percent(row["accuracy"]),
                _range(row["interval"]["low"], row["interval"]["high"]),
                f"{row['thinking_tokens']:.0f}",
                "" if row["control"] is None else f"{row['control']:.0%}",
                _p_fell(row["change"]),
            ]
            for row in task["conditions"]
        ]
        lines += [*_table(["", "accuracy", "95 % interval", "thinking tokens", "T ≤ limit", "p (fell)"], rows), ""]
        for row in task["methods"]:
            if row["scaling_interval"] is not None:
                low, high = row["scaling_interval"]
                slope = f"{row['scaling_spread']:.1f} points per doubling ({low:.1f} to {high:.1f})"
                lines.append(f"- {row['method']}: Scaling {slope}, Performance {_percent(row['performance'])}")
        if task["note"]:
            lines.append(f"- {task['note'][0].upper()}{task['note'][1:]}")
        lines.append("")
    return "\n".join(lines).strip() + "\n"


def conditions(task: Mapping[str, Any]) -> list[str]:
    """A row per condition: accuracy, interval, tokens, Control, change since the row before it on its curve."""
    rows = task["conditions"]
    many = any(row["samples"] > 1 for row in rows)
    tries = any("tries" in row for row in rows)
    head = [
        "condition",
        "accuracy",
        "95 % interval",
        *(["same problems again"] if many else []),
        "thinking tokens",
        "T ≤ limit",
        "forced ends",
        "no answer",
        "ungraded",
        "change",
        "p (fell)",
        *(["tries"] if tries else []),
    ]
    table = []
    for row in rows:
        again = row["sampling_interval"]
        cells = [row["condition"], _percent(row["accuracy"]), _range(row["interval"]["low"], row["interval"]["high"])]
        if many:
            cells.append("" if again is None else _range(*again))
        cells += [
            f"{row['thinking_tokens']:.0f}",
            "" if row["control"] is None else f"{row['control']:.0%}",
            str(row["forced_ends"]),
            str(row["no_answer"]),
            str(row["ungraded"]),
            _change(row["change"] or {}),
            _p_fell(row["change"]),
        ]
        if tries:
            cells.append(f"{row['tries']:.1f}" if "tries" in row else "")
        table.append(cells)
    return _table(head, table)


def together(task: Mapping[str, Any]) -> list[str]:
    """A row per number of samples taken together."""
    table = []
    for row in task["conditions"]:
        for entry in row.get("at_k", ()):
            table.append(
                [
                    row["condition"],
                    str(entry["k"]),
                    _percent(entry["majority"]),
                    _range(*entry["majority_interval"]),
                    _change(entry["gain"]),
                    _change(entry.get("gain_over_greedy", {})),
                    "" if entry["best_of"] is None else _percent(entry["best_of"]),
                    _percent(entry["pass"]),
                    f"{entry['unique_tokens']:.0f}",
                    f"{entry['path_tokens']:.0f}",
                ]
            )
    head = [
        "condition",
        "k",
        "majority",
        "95 % interval",
        "points over one sample",
        "over a greedy one",
        "best of k",
        "pass@k",
        "generated tokens",
        "along the longest path",
    ]
    return _table(head, table)


def methods(task: Mapping[str, Any]) -> list[str]:
    """A row per method: Control, Scaling (percentage points per doubling), Performance."""
    table = []
    for row in task["methods"]:
        wide, interval = row["scaling_spread"], row["scaling_interval"]
        table.append(
            [
                row["method"],
                str(row["runs"]),
                "" if row["control"] is None else f"{row['control']:.0%} ({row['control_of_samples']:.0%})",
                "" if row["scaling"] is None else f"{row['scaling']:.1f} ({row['scaling_pairs']})",
                "none so far apart" if wide is None else f"{wide:.1f} ({row['scaling_spread_pairs']})",
                "" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}",
                _percent(row["performance"]),
                "" if row["performance_interval"] is None else _range(*row["performance_interval"]),
                "" if row["performance_bias"] is None else f"{100 * row['performance_bias']:+.1f}",
                _percent(row["accuracy_at_longest"]),
            ]
        )
    head = [
        "method",
        "runs",
        "Control (of samples)",
        "Scaling, all pairs",
        "Scaling, ≥ ½ doubling apart",
        "95 % interval",
        "Performance",
        "95 % interval",
        "bias of the maximum",
        "at the longest",
    ]
    return _table(head, table)


def groups(task: Mapping[str, Any]) -> list[str]:
    """Accuracy by group of problems; majority beside it for conditions of many samples."""
    names = list(dict.fromkeys(name for row in task["conditions"] for name in row["groups"]))
    table = [
        [row["condition"], *(f"{row['groups'][name]:.0%}" if name in row["groups"] else "" for name in names)]
        for row in task["conditions"]
    ]
    for row in task["conditions"]:
        voted = row.get("at_k", [{}])[-1]
        if voted.get("groups"):
            found = voted["groups"]
            cells = [f"{found[name]['majority']:.0%}" if name in found else "" for name in names]
            table.append([f"majority of {voted['k']}, {row['condition']}", *cells])
    return _table(["condition", *(name or "other" for name in names)], table)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def _percent(share: float) -> str:
    return f"{share:.1%}"


def _range(low: float, high: float) -> str:
    return f"{low:.1%} to {high:.1%}"


def _p_fell(change: Mapping[str, Any] | None) -> str:
    return "" if change is None or change.get("p_fell") is None else f"{change['p_fell']:.2g}"


def _change(change: Mapping[str, Any]) -> str:
    if "difference" not in change:
        return ""
    return f"{100 * change['difference']:+.1f} ({100 * change['low']:+.1f} to {100 * change['high']:+.1f})"
