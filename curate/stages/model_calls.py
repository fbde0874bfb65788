"""The stages that ask models: trace, attempt, grade, difficulty, domain.

Each call goes through the response store, so a stage that is broken off and started again asks only for what is
missing. The functions that are mapped over rows open store and model themselves: they may run on another machine.
"""

from contextlib import nullcontext

import polars as pl

from curate.config import Asked, Attempts
from curate.grading.checker import PREFIX
from curate.grading.grade import Grader
from curate.grading.judge import Judge
from curate.models.opened import calls_at_once, open_model
from curate.models.store import Store
from curate.progress import Progress
from curate.records import DECISION, checked, counts_of, decided, decisions
from curate.selection.difficulty import difficulty
from curate.selection.domains import DOMAIN_SCHEMA, agreement, classify, fallback
from curate.stages.attempts import ATTEMPT_SCHEMA, GRADE_SCHEMA, attempt, grade_attempts
from curate.stages.stage import Context, Output
from engine.errors import InputError

DECIDING = ("collect", "dedupe", "decontaminate", "quality", "difficulty")
"""Stages whose decisions take rows out, in order."""


def alive(context: Context, before: str) -> pl.DataFrame:
    """The questions that every deciding stage ahead of `before` kept, in their order."""
    ahead = {**{stage: i for i, stage in enumerate(DECIDING)}, "trace": 3, "attempt": 4, "grade": 4}
    questions = context.table("collect", "questions")
    for stage in DECIDING[: ahead.get(before)]:
        kept = context.table(stage, "decisions").filter("keep")
        questions = questions.join(kept, on="row_id", how="semi", maintain_order="left")
    return questions


def run_attempts(stage: str, context: Context) -> Output:
    """Stage `trace` or `attempt`: attempts of all its models, and what their calls came to, per model."""
    config = context.config
    traced = Attempts(models=(config.trace,)) if config.trace else None
    settings = config.attempt if stage == "attempt" else traced
    assert settings is not None
    questions = alive(context, stage).select("qid", "question")
    store, retry = context.store_path, context.retry_errors
    parts = []
    for asked in settings.models:

        def rows(table: pl.DataFrame, advance: Progress, asked: Asked = asked) -> pl.DataFrame:
            with Store(store, retry) as responses, open_model(asked.model, responses) as model:
                return attempt(table, model, asked.sampling, settings.samples, progress=advance)

        calls = questions.height * settings.samples
        with context.bars.bar(stage, calls, calls_at_once(asked.model)) as advance:
            parts.append(context.executor(rows, questions, ["qid", "sample"], advance))
    made = checked(pl.concat(parts), pl.Schema(ATTEMPT_SCHEMA), f"{stage}s")
    table = (
        made.group_by("model")
        .agg(
            pl.len().alias("calls"),
            pl.col("error").is_not_null().sum().alias("errors"),
            pl.col("prompt_tokens").sum(),
            pl.col("thinking_tokens").sum(),
            pl.col("completion_tokens").sum(),
        )
        .sort("model")
    )
    details = made.group_by("model").agg(pl.col("error_detail").drop_nulls().mode().sort().first())
    silent = table.filter(pl.col("errors") == pl.col("calls")).join(details, on="model", maintain_order="left")
    reasons = made.with_columns(pl.col("finish_reason").fill_null(pl.format("error: {}", "error")))
    return Output(
        {f"{stage}s": made},
        {
            "rows": made.height,
            "models": {row.pop("model"): row for row in table.to_dicts()},
            "silent": dict(silent.select("model", "error_detail").rows()),
            "finish_reasons": counts_of(reasons, "finish_reason"),
        },
    )


def run_grade(context: Context) -> Output:
    """Verdicts on all attempts and traces, by rule and, where there is one, by a judge."""
    settings, store, retry = context.config.grade, context.store_path, context.retry_errors
    judge = settings.judge
    questions = alive(context, "grade").select("qid", "question", "answer", "answer_type", "family")
    tables = {}
    for name, stage, of in (("grades", "attempt", "attempts"), ("trace_grades", "trace", "traces")):
        attempts = context.table(stage, of).join(questions, on="qid")

        def rows(table: pl.DataFrame, advance: Progress) -> pl.DataFrame:
            about = table.select("qid", "question", "answer", "answer_type", "family").unique("qid")
            with (
                Store(store, retry) if judge else nullcontext() as responses,
                open_model(judge.model, responses) if judge and responses else nullcontext() as model,
                Grader(
                    settings.workers,
                    settings.time_limit_s,
                    settings.memory_limit_mb,
                    judge=Judge(model, judge.sampling) if judge and model else None,
                ) as grader,
            ):
                return grade_attempts(table, about, grader, progress=advance)

        with context.bars.bar(name, attempts.height) as advance:
            made = context.executor(rows, attempts, ["model", "qid", "sample"], advance)
        unable = pl.col("reason").str.strip_prefix(f"{InputError.__name__}: ")
        said = made.filter((pl.col("grader") == "own/grader_error") & unable.str.starts_with(PREFIX)).select(unable)
        if not said.is_empty():  # a function that cannot be had has judged nothing, now or ever
            raise InputError(f"grade: {said.item(0, 0)}; run the same command again")
        tables[name] = checked(made, pl.Schema(GRADE_SCHEMA), name)
    counts = {
        name: {
            model: counts_of(part, "verdict")
            for (model,), part in sorted(table.group_by("model"), key=lambda pair: str(pair[0]))
        }
        for name, table in tables.items()
    }
    made = tables["grades"]
    return Output(tables, {"rows": made.height, "verdicts": counts, "graders": counts_of(made, "grader")})


def run_difficulty(context: Context) -> Output:
    """Keeps the questions that no model solved, and says of the others why not."""
    questions = alive(context, "difficulty").select("row_id", "qid")
    made = difficulty(questions, context.table("grade", "grades"), context.config.difficulty.ungradable)
    table = decisions(questions.join(made, on="qid", maintain_order="left"), "difficulty")
    return Output({"decisions": checked(table, DECISION, "decisions")}, decided(table))


def run_domain(context: Context) -> Output:
    """The subject of each question that is left."""
    settings, store, retry = context.config.domain, context.store_path, context.retry_errors
    pool = "domain" if context.config.select.pool == "hard" else "difficulty"
    questions = alive(context, pool).select("qid", "question")
    named = settings.model

    def rows(table: pl.DataFrame, advance: Progress) -> pl.DataFrame:
        if named is None:
            advance(table.height)
            return fallback(table)
        with Store(store, retry) as responses, open_model(named, responses) as model:
            return classify(table, model, settings.sampling, progress=advance)

    with context.bars.bar("domain", questions.height, calls_at_once(named) if named else 1) as advance:
        made = checked(context.executor(rows, questions, ["qid"], advance), pl.Schema(DOMAIN_SCHEMA), "domains")
    counts: dict[str, object] = {
        "rows": made.height,
        "classifiers": counts_of(made, "source"),
        "domains": counts_of(made, "code"),
    }
    if named is not None:
        found = agreement(made, fallback(questions))
        counts["agreement"] = {"rows": found.rows, "equal": found.equal, "share": found.share, "kappa": found.kappa}
    return Output({"domains": made}, counts)
