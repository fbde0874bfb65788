"""What is said where a run gives fewer questions than it was asked for: how many, and what took the others out."""

from collections.abc import Sequence
from typing import Any

TOLD = 5
"""Rules that are named, most rows first."""
WAYS_OUT = {
    "error": "see `error_detail` in trace/traces.parquet, and ask again with --retry-errors",
    "unfinished": "raise trace.sampling.max_tokens, or the teacher's max_model_len where that is less, or keep cut "
    "traces with quality.finished: false",
    "no_trace": "take a teacher that thinks, or give it a thinking_format",
    "no_answer": "raise trace.sampling.max_tokens, or take another teacher",
    "solved": "let weaker models attempt, or select from pool: quality",
    "ungradable": "difficulty.ungradable: keep keeps them",
    "too_long": "raise format.max_tokens",
    "spells_special": "format.style: s1 or messages takes them",
}
"""By rule."""


def shortfall(stage: str, counts: dict[str, Any]) -> str:
    """One line on the counts of a stage: models of which every call failed, questions that are missing; or ""."""
    if silent := counts.get("silent"):
        why = "; ".join(f"of {model} ({detail})" for model, detail in silent.items())
        return f"{stage}: every call failed, {why}; mend it, and ask again with --retry-errors"
    lost = counts.get("lost", [])
    if stage == "select" and counts.get("asked") is not None and counts["kept"] < counts["asked"]:
        said = f"selected {counts['kept']:,} of {counts['asked']:,} asked for"
        return f"{said}: {_reasons(lost) or 'there are no more questions'}{_way_out(lost)}"
    if stage == "format" and lost:
        return f"format leaves out {counts['rows'] - counts['kept']:,} of {counts['rows']:,} samples: " + (
            f"{_reasons(lost)}{_way_out(lost)}"
        )
    return ""


def _reasons(lost: Sequence[dict[str, Any]]) -> str:
    told = [f"{each['rows']:,} {each['rule'].replace('_', ' ')} ({each['stage']})" for each in lost[:TOLD]]
    rest = sum(each["rows"] for each in lost[TOLD:])
    return ", ".join([*told, *([f"{rest:,} for other reasons"] if rest else [])])


def _way_out(lost: Sequence[dict[str, Any]]) -> str:
    way = WAYS_OUT.get(lost[0]["rule"] if lost else "")
    return f"; {way}" if way else ""
