"""Rows that cannot be used: failed or cut traces, and questions whose text lost something on its way here.

The patterns are s1's: drawings in [asy], images that are not there, references to pages, and bold numbering.
"""

import polars as pl

from curate.config import Quality
from curate.records import decisions

IMAGE = r"!\[Image\]"
PAGE = {"s1": r"p[1-9]\d{0,2}\.", "word": r"\bp[1-9]\d{0,2}\."}
BOLD_NUMBER = r"\*\*[^\n]*\d"
CONTROL = r"<\|[A-Za-z_]+\|>"
"""A special token spelled out in text would become one in training."""


def _first(pattern: str, column: str) -> pl.Expr:
    """Where the pattern is found, with a little of what stands around it."""
    return pl.format("{}: ...{}...", pl.lit(column), pl.col(column).str.extract(f"(.{{0,20}}(?:{pattern}).{{0,20}})"))


def quality(table: pl.DataFrame, settings: Quality) -> pl.DataFrame:
    """Decisions [DECISION] for `table` [row_id, qid, source, question, answer, family], row by row.

    Where it also has the columns of a trace [thinking, attempt, finish_reason, error, error_detail] those are judged,
    too. The first rule that a row breaks is the one that is named.
    """
    rules: list[tuple[str, pl.Expr, pl.Expr]] = []
    if "thinking" in table.columns:
        empty, no_answer = (pl.col(c).fill_null("").str.strip_chars() == "" for c in ("thinking", "attempt"))
        reason = pl.col("finish_reason").fill_null("unknown")
        rules += [
            (
                "error",
                pl.col("error").is_not_null(),
                pl.concat_str("error", "error_detail", separator=": ", ignore_nulls=True),
            ),
            ("no_trace", empty, pl.format("finish reason {}", reason)),
            ("unfinished", (reason != "stop") & settings.finished, pl.format("finish reason {}", reason)),
            ("no_answer", no_answer, pl.format("finish reason {}", reason)),
            ("control_token", pl.col("thinking").str.contains(CONTROL), _first(CONTROL, "thinking")),
            ("control_token", pl.col("attempt").str.contains(CONTROL), _first(CONTROL, "attempt")),
        ]
    question, page = pl.col("question"), PAGE[settings.page_reference]
    rules += [
        ("control_token", question.str.contains(CONTROL), _first(CONTROL, "question")),
        (
            "asy",
            question.str.contains("[asy]", literal=True) & ~pl.col("source").is_in(list(settings.asy_exempt)),
            _first(r"\[asy\]", "question"),
        ),
        ("image", question.str.contains(IMAGE), _first(IMAGE, "question")),
        ("page_reference", question.str.contains(page), _first(page, "question")),
        ("bold_number", question.str.contains(BOLD_NUMBER), _first(BOLD_NUMBER, "question")),
        (
            "too_long",
            question.str.len_chars() > settings.longest_question,
            pl.format("{} characters", question.str.len_chars()),
        ),
        (
            "no_reference",
            (pl.col("answer").is_null() & pl.col("family").is_null()) & settings.reference,
            pl.lit("nothing to grade an attempt against"),
        ),
    ]
    rule, evidence = pl.lit("kept"), pl.lit("")
    for name, broken, why in reversed(rules):
        rule = pl.when(broken).then(pl.lit(name)).otherwise(rule)
        evidence = pl.when(broken).then(why).otherwise(evidence)
    return decisions(table, "quality", rule == "kept", rule, evidence.fill_null(""))
