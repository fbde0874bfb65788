"""The stages of a run, from questions to a training file, and what each reads."""

from functools import partial
from pathlib import Path

import polars as pl

from curate.config import Config
from curate.progress import Progress
from curate.records import DECISION, QUESTION, SELECTION, checked, count_by_source, counts_of, decided, decisions
from curate.selection.decontaminate import decontaminate, load_evaluations
from curate.selection.dedupe import dedupe
from curate.selection.difficulty import lengths
from curate.selection.quality import quality
from curate.selection.select import select
from curate.sources.procedural import family_files
from curate.stages.collect import collect
from curate.stages.formatting import SAMPLE, formatted
from curate.stages.model_calls import alive, model_files, run_attempts, run_difficulty, run_domain, run_grade
from curate.stages.stage import Context, Output, Stage
from curate.table_io import files
from engine.errors import InputError

ORDER = (
    "collect",
    "dedupe",
    "decontaminate",
    "trace",
    "quality",
    "attempt",
    "grade",
    "difficulty",
    "domain",
    "select",
    "format",
)


def stages(config: Config) -> tuple[Stage, ...]:
    """The stages that `config` asks for, in order; one that ends early has no `trace`, `attempt` or `format`."""
    before = ("collect", "dedupe", "decontaminate")
    traced = before if config.trace is None else (*before, "trace")
    every = (
        Stage(
            "collect",
            1,
            (),
            lambda c: c.collect,
            run_collect,
            lambda c: [path for source in c.collect.sources for path in source.local_files()],
        ),
        Stage("dedupe", 2, ("collect",), lambda c: c.dedupe, run_dedupe),
        Stage("decontaminate", 2, ("collect", "dedupe"), lambda c: c.decontaminate, run_decontaminate, eval_files),
        Stage("trace", 1, before, lambda c: c.trace, partial(run_attempts, "trace"), lambda c: model_files([c.trace])),
        Stage("quality", 1, traced, lambda c: c.quality, run_quality),
        Stage(
            "attempt",
            1,
            (*before, "quality"),
            lambda c: c.attempt,
            partial(run_attempts, "attempt"),
            lambda c: model_files(c.attempt.models if c.attempt else ()),
        ),
        Stage(
            "grade",
            2,
            (*traced, "quality", "attempt"),
            lambda c: c.grade,
            run_grade,
            lambda c: model_files([c.grade.judge]),
        ),
        Stage("difficulty", 1, (*before, "quality", "grade"), lambda c: c.difficulty, run_difficulty),
        Stage(
            "domain",
            2,
            (*before, "quality", "difficulty"),
            lambda c: [c.domain, c.select.pool],
            run_domain,
            lambda c: model_files([c.domain]),
        ),
        Stage(
            "select",
            1,
            (*traced, "quality", "grade", "difficulty", "domain"),
            lambda c: [c.select, c.seed],
            run_select,
            lambda c: tokenizer_files(c.select.tokenizer),
        ),
        Stage(
            "format",
            2,
            ("collect", "trace", "domain", "select"),
            lambda c: c.format,
            run_format,
            lambda c: tokenizer_files(c.format.tokenizer if c.format else None),
        ),
    )
    needed = dict.fromkeys(("attempt", "grade", "difficulty", "domain", "select"), config.attempt)
    sections = {"trace": config.trace, **needed, "format": config.format}
    return tuple(stage for stage in every if sections.get(stage.name, config) is not None)


def eval_files(config: Config) -> list[Path]:
    """The files that evaluation questions are read from."""
    sets = config.decontaminate.against
    found = files(tuple(each.path for each in sets if each.path is not None))
    return found + family_files() if any(each.heldout is not None for each in sets) else found


def tokenizer_files(folder: str | None) -> list[Path]:
    """What of a tokenizer's folder decides its tokens. Raises InputError where it holds none."""
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    found = [] if folder is None else [path for name in names if (path := Path(folder) / name).is_file()]
    if folder is not None and Path(folder) / names[0] not in found:
        raise InputError(f"{folder}: no tokenizer.json; name the folder of a model's tokenizer")
    return found


def run_collect(context: Context) -> Output:
    """The questions of all sources, and what became of every row."""
    sources = context.config.collect.sources
    expected = [source.expected() for source in sources]
    with context.bars.bar("collect", None if None in expected else sum(filter(None, expected))) as advance:
        questions, made = collect(sources, advance)
    return Output(
        {"questions": checked(questions, QUESTION, "questions"), "decisions": made},
        decided(made) | {"read": count_by_source(made)},
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
        made = context.executor(rows, table, ["row_id"], advance)
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
        .join(lengths(traces, Path(settings.tokenizer) if settings.tokenizer else None), on="qid")
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
    return Output(
        {"selection": checked(chosen, SELECTION, "selection"), "decisions": made},
        decided(made) | {"mode": settings.mode, "domains": counts_of(chosen, "domain")},
    )


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
    return Output(
        {"decisions": checked(made, DECISION, "decisions"), "samples": checked(samples, SAMPLE, "samples")},
        decided(made) | {column: int(samples[column].sum()) for column in SAMPLE if column != "qid"},
        {"train.jsonl": lines},
    )
