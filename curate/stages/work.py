"""What the stages do: from the tables of earlier ones to their own."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import polars as pl

from curate.progress import Progress
from curate.records import (
    DECISION,
    QUESTION,
    SELECTION,
    checked,
    count_by_source,
    counts_of,
    decided,
    decisions,
    hidden,
)
from curate.selection.decontaminate import decontaminate, load_evaluations
from curate.selection.dedupe import dedupe
from curate.selection.difficulty import lengths
from curate.selection.quality import quality
from curate.selection.select import select
from curate.stages.collect import collect
from curate.stages.formatting import SAMPLE, formatted
from curate.stages.model_calls import DECIDING, alive, run_attempts, run_difficulty, run_domain, run_grade
from curate.stages.stage import Context, Output
from engine.model.embedded import folder_of


def run_collect(context: Context) -> Output:
    """The questions of all sources, and what became of every row."""
    sources = context.config.collect.sources
    expected = [source.expected() for source in sources]
    with context.bars.bar("collect", None if None in expected else sum(filter(None, expected))) as advance:
        questions, made = collect(sources, advance)
    private = [source.label for source in sources if source.info.private]
    return Output(
        {"questions": checked(questions, QUESTION, "questions"), "decisions": hidden(made, private, "evidence")},
        decided(made) | {"read": count_by_source(made), "private": private},
    )


def run_dedupe(context: Context) -> Output:
    """Of questions that are the same one stays."""
    questions = context.table("collect", "questions")
    with context.bars.bar("dedupe", questions.height) as advance:
        made = dedupe(questions, context.config.dedupe, advance)
    return Output({"decisions": checked(made, DECISION, "decisions")}, decided(made))


def run_decontaminate(context: Context) -> Output:
    """Questions near those of an evaluation go, with the evidence of both rules."""
    settings = context.config.decontaminate
    questions = alive(context, "decontaminate")
    with context.bars.bar("decontaminate", questions.height) as advance:
        evaluations = load_evaluations(settings.against)
        made, matches = decontaminate(questions, evaluations, settings, advance)
    by_s1 = pl.col("rule") == "s1"
    hits = {name: matches.filter(mine)["row_id"].n_unique() for name, mine in (("s1", by_s1), ("scored", ~by_s1))}
    made, matches = hidden(made, context.private, "evidence"), hidden(matches, context.private, "ngram")
    return Output(
        {"decisions": checked(made, DECISION, "decisions"), "matches": matches},
        decided(made) | {"evaluation_questions": evaluations.height, "hits": hits},
    )


def run_quality(context: Context) -> Output:
    """Questions and traces that are damaged by their looks go."""
    table, settings = alive(context, "quality"), context.config.quality
    if context.config.trace is not None:
        traces = context.table("trace", "traces").select(
            "qid", "thinking", "attempt", "finish_reason", "error", "error_detail"
        )
        table = table.join(traces, on="qid", how="left", maintain_order="left")

    def rows(table: pl.DataFrame, advance: Progress) -> pl.DataFrame:
        advance(table.height)
        return quality(table, settings)

    with context.bars.bar("quality", table.height) as advance:
        made = hidden(context.executor(rows, table, ["row_id"], advance), context.private, "evidence")
    return Output({"decisions": checked(made, DECISION, "decisions")}, decided(made))


def run_select(context: Context) -> Output:
    """The questions that stay, in the order in which they were drawn."""
    settings = context.config.select
    questions = alive(context, "select" if settings.pool == "hard" else "difficulty")
    traces = context.table("trace", "traces").join(questions.select("qid"), on="qid", how="semi")
    right = context.table("grade", "trace_grades").select("qid", (pl.col("verdict") == "yes").alias("correct"))
    pool = (
        questions.select("row_id", "qid", "source")
        .join(context.table("domain", "domains").select("qid", pl.col("code").alias("domain")), on="qid")
        .join(lengths(traces, folder_of(settings.tokenizer) if settings.tokenizer else None), on="qid")
        .join(right, on="qid", how="left")
        .with_columns(pl.col("correct").fill_null(False), pl.col("trace_tokens").fill_null(0))
    )
    chosen = select(pool.drop("row_id"), settings, context.config.seed)
    table = pool.join(chosen.select("qid", "order", "why"), on="qid", how="left", maintain_order="left")
    made = decisions(
        table,
        "select",
        keep=pl.col("order").is_not_null(),
        rule=pl.format("picked:{}", "why").fill_null("not_picked"),
        evidence=pl.format("number {}", "order").fill_null(""),
    ).sort("row_id")
    asked = None if settings.mode == "full" else settings.count
    counts = decided(made) | {"mode": settings.mode, "domains": counts_of(chosen, "domain"), "asked": asked}
    if asked is not None and chosen.height < asked:
        ahead = DECIDING if settings.pool == "hard" else DECIDING[:-1]
        counts["lost"] = lost({stage: context.table(stage, "decisions") for stage in ahead})
    return Output({"selection": checked(chosen, SELECTION, "selection"), "decisions": made}, counts)


def run_format(context: Context) -> Output:
    """The training file, and what it holds."""
    settings = context.config.format
    assert settings is not None
    rows = (
        context.table("select", "selection")
        .sort("order")
        .join(
            context.table("collect", "questions").unique("qid", keep="first", maintain_order=True),
            on="qid",
            maintain_order="left",
        )
        .join(context.table("trace", "traces").select("qid", "thinking", "attempt"), on="qid", maintain_order="left")
    )
    with context.bars.bar("format", rows.height) as advance:
        made, samples, lines = formatted(rows, settings)
        advance(rows.height)
    sums = {column: int(samples[column].sum()) for column in SAMPLE if column != "qid"}
    return Output(
        {"decisions": checked(made, DECISION, "decisions"), "samples": checked(samples, SAMPLE, "samples")},
        decided(made) | sums | {"lost": lost({"format": made})},
        {"train.jsonl": lines},
    )


def lost(decisions: Mapping[str, pl.DataFrame]) -> list[dict[str, Any]]:
    """{stage, rule, rows} of the rows [DECISION] that stages took out, most rows first."""
    found = [
        {"stage": stage, "rule": rule, "rows": rows}
        for stage, table in decisions.items()
        for rule, rows in sorted(table.filter(~pl.col("keep")).group_by("rule").len().iter_rows())
    ]
    return sorted(found, key=lambda each: -each["rows"])


WORK: Mapping[str, Callable[[Context], Output]] = {
    "collect": run_collect,
    "dedupe": run_dedupe,
    "decontaminate": run_decontaminate,
    "trace": partial(run_attempts, "trace"),
    "quality": run_quality,
    "attempt": partial(run_attempts, "attempt"),
    "grade": run_grade,
    "difficulty": run_difficulty,
    "domain": run_domain,
    "select": run_select,
    "format": run_format,
}
"""What makes the output of each stage."""
