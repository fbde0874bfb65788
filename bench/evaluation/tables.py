"""A report as Markdown."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_PAGES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=False,  # Markdown
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
)


def markdown(report: Mapping[str, Any]) -> str:
    """Every task's tables: conditions, samples taken together, methods, families."""
    page = _PAGES.get_template("report.md.jinja")
    return page.render(report, parts=(conditions, together, searches, methods, groups)).strip() + "\n"


def summary(report: Mapping[str, Any]) -> str:
    """The few columns that a README needs: accuracy, interval, tokens, Control, the paired test; below, what of the
    tables is one line."""
    return _PAGES.get_template("summary.md.jinja").render(report, in_short=in_short).strip() + "\n"


def in_short(task: Mapping[str, Any]) -> list[str]:
    """A row per condition: those columns, or what searches cost where there are any."""
    return searches(task) or _table(
        [
            [
                ("", row["condition"]),
                ("accuracy", f"{row['accuracy']:.1%}"),
                ("95 % interval", _range([row["interval"]["low"], row["interval"]["high"]])),
                ("thinking tokens", f"{row['thinking_tokens']:.0f}"),
                ("T ≤ limit", _told("{:.0%}", row["control"])),
                ("p (fell)", _told("{:.2g}", (row["change"] or {}).get("p_fell"))),
            ]
            for row in task["conditions"]
        ]
    )


def conditions(task: Mapping[str, Any]) -> list[str]:
    """A row per condition: accuracy, interval, tokens, Control, change since the row before it on its curve."""
    rows = task["conditions"]
    many = any(row["samples"] > 1 for row in rows)
    tries = any("tries" in row for row in rows)
    return _table(
        [
            [
                ("condition", row["condition"]),
                ("accuracy", f"{row['accuracy']:.1%}"),
                ("95 % interval", _range([row["interval"]["low"], row["interval"]["high"]])),
                *([("same problems again", _range(row["sampling_interval"]))] if many else []),
                ("thinking tokens", f"{row['thinking_tokens']:.0f}"),
                ("limit", _told("{:,}", row["limit"])),
                ("T ≤ limit", _told("{:.0%}", row["control"])),
                ("forced ends", str(row["forced_ends"])),
                ("no answer", str(row["no_answer"])),
                ("ungraded", str(row["ungraded"])),
                ("change", _change(row["change"] or {})),
                ("p (fell)", _told("{:.2g}", (row["change"] or {}).get("p_fell"))),
                *([("tries", f"{row['tries']:.1f}" if "tries" in row else "")] if tries else []),
            ]
            for row in rows
        ]
    )


def together(task: Mapping[str, Any]) -> list[str]:
    """A row per number of samples taken together."""
    return _table(
        [
            [
                ("condition", row["condition"]),
                ("k", str(entry["k"])),
                ("majority", f"{entry['majority']:.1%}"),
                ("95 % interval", _range(entry["majority_interval"])),
                ("points over one sample", _change(entry["gain"])),
                ("over a greedy one", _change(entry.get("gain_over_greedy", {}))),
                ("best of k", _told("{:.1%}", entry["best_of"])),
                ("pass@k", f"{entry['pass']:.1%}"),
                ("generated tokens", f"{entry['unique_tokens']:.0f}"),
                ("along the longest path", f"{entry['path_tokens']:.0f}"),
            ]
            for row in task["conditions"]
            for entry in row.get("at_k", ())
        ]
    )


def searches(task: Mapping[str, Any]) -> list[str]:
    """A row per condition of a task with searches: accuracy, what it cost, and a search beside the best greedy sample,
    with a budget or "Wait", of no more unique tokens."""
    rows = task["conditions"] if any("search" in row for row in task["conditions"]) else []
    tokens = {row["condition"]: row["cost"]["unique_tokens"] for row in rows}
    return _table(
        [
            [
                ("search", row["condition"]),
                ("accuracy", f"{row['accuracy']:.1%}"),
                ("95 % interval", _range([row["interval"]["low"], row["interval"]["high"]])),
                ("unique tokens", f"{row['cost']['unique_tokens']:,.0f}"),
                ("longest path", f"{row['cost']['path_tokens']:,.0f}"),
                ("reward tokens (reused)", _reward(row["cost"])),
                ("FLOPs", f"{row['cost']['flops']:.2e}"),
                ("points over", _change(over)),
                (
                    "the best greedy one of no more tokens (its tokens)",
                    f"{over['of']} ({tokens[over['of']]:,.0f})" if over else "",
                ),
            ]
            for row in rows
            for over in [(row.get("search") or {}).get("over") or {}]
        ]
    )


def _reward(cost: Mapping[str, float]) -> str:
    computed, reused = cost["reward_tokens"], cost["reward_tokens_reused"]
    return f"{computed:,.0f} ({reused:,.0f})" if computed or reused else ""


def methods(task: Mapping[str, Any]) -> list[str]:
    """A row per method: Control, Scaling (percentage points per doubling), Performance."""
    return _table(
        [
            [
                ("method", row["method"]),
                ("runs", str(row["runs"])),
                ("Control (of samples)", _told("{:.0%} ({:.0%})", row["control"], row["control_of_samples"])),
                ("Scaling, all pairs", _told("{:.1f} ({})", row["scaling"], row["scaling_pairs"])),
                (
                    "Scaling, ≥ ½ doubling apart",
                    _told("{:.1f} ({})", row["scaling_spread"], row["scaling_spread_pairs"]) or "none so far apart",
                ),
                ("95 % interval", _told("{:.1f} to {:.1f}", *(row["scaling_interval"] or [None]))),
                ("Performance", f"{row['performance']:.1%}"),
                ("95 % interval", _range(row["performance_interval"])),
                ("bias of the maximum", _told("{:+.1%}", row["performance_bias"]).removesuffix("%")),
                ("at the longest", f"{row['accuracy_at_longest']:.1%}"),
            ]
            for row in task["methods"]
        ]
    )


def groups(task: Mapping[str, Any]) -> list[str]:
    """Accuracy by group of problems; majority beside it for conditions of many samples."""
    names = list(dict.fromkeys(name for row in task["conditions"] for name in row["groups"]))
    shares = [(row["condition"], row["groups"]) for row in task["conditions"]]
    for row in task["conditions"]:
        voted = row.get("at_k", [{}])[-1]
        if voted.get("groups"):
            found = {name: group["majority"] for name, group in voted["groups"].items()}
            shares.append((f"majority of {voted['k']}, {row['condition']}", found))
    return _table(
        [
            [("condition", label), *((name or "other", _told("{:.0%}", found.get(name))) for name in names)]
            for label, found in shares
            if names
        ]
    )


def _table(rows: Sequence[Sequence[tuple[str, str]]]) -> list[str]:
    """Each cell with the head of its column; no rows make no table."""
    if not rows:
        return []
    return [
        "| " + " | ".join(head for head, _ in rows[0]) + " |",
        "|" + "---|" * len(rows[0]),
        *("| " + " | ".join(cell.replace("|", "\\|") for _, cell in row) + " |" for row in rows),
    ]


def _told(pattern: str, *values: float | None) -> str:
    """The values as text; nothing where one is missing."""
    return "" if None in values else pattern.format(*values)


def _range(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}"


def _change(change: Mapping[str, Any]) -> str:
    if "difference" not in change:
        return ""
    return f"{100 * change['difference']:+.1f} ({100 * change['low']:+.1f} to {100 * change['high']:+.1f})"
