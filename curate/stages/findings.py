"""What the report says: counts, examples, costs, and for every row the stage at which it ended."""

from dataclasses import dataclass
from typing import Any

import polars as pl

from curate.config import Config
from curate.models.store import Store
from curate.records import PRIVATE, counts_of
from curate.sources import PAPER
from curate.stages.funnel import Step, funnel
from curate.stages.pipeline import stages
from curate.stages.stage import Context, seconds_of
from engine.json_file import read_object

PAPER_COUNTS = {
    "collect": "59,029",
    "quality": "54,116 without errors, 51,581 well formed",
    "difficulty": "24,496",
    "select": "1,000 (384 of them seed picks)",
}
"""arXiv 2501.19393, section 2."""
SHOWN = 300
"""Characters of a question that are shown."""


@dataclass(frozen=True)
class Findings:
    """Rows of the report's tables, in their order."""

    funnel: list[Step]
    stages: list[list[Any]]
    source_stages: list[str]
    sources: list[list[Any]]
    drops: list[tuple[str, str, int, list[tuple[str, str, str]]]]
    rules: list[list[Any]]
    seeded: list[list[Any]]
    verdicts: list[list[Any]]
    cost: list[list[Any]]
    notes: list[list[Any]]
    provenance: list[tuple[str, str, str, str]]
    domains: pl.DataFrame | None
    lengths: dict[str, list[int]] | None  # tokens of all traces, and of those selected
    counts: dict[str, Any]
    ledger: pl.DataFrame
    seconds: float


def ledger(decisions: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """[row_id, qid, stage, rule, evidence, selected]: for every row the stage that took it out, or the last one."""
    parts = [table.with_columns(pl.lit(i).alias("at")) for i, table in enumerate(decisions.values(), 1)]
    ends = pl.concat(parts).group_by("row_id", maintain_order=True).last()
    kept = (pl.col("at") == len(parts)) & pl.col("keep")
    return ends.select("row_id", "qid", "stage", "rule", "evidence", kept=kept).sort("row_id")


def find(context: Context) -> Findings:
    """Everything from what is on the disk now; stages that have not run yet are left out."""
    config = context.config
    paths = {stage.name: context.folder / stage.name / "manifest.json" for stage in stages(config)}
    manifests = {name: read_object(path) for name, path in paths.items() if path.is_file()}
    decisions = {
        name: context.table(name, "decisions") for name, m in manifests.items() if "decisions.parquet" in m["outputs"]
    }
    seconds = seconds_of(context.folder)
    counts = {name: manifest["counts"] for name, manifest in manifests.items()}
    questions = context.table("collect", "questions")
    ends = ledger(decisions)
    totals = []
    if context.store_path.is_file():
        with Store(context.store_path) as store:
            totals = store.totals()
    drops = _drops(context.private, decisions, questions, config.report.examples)
    return Findings(
        funnel=funnel(decisions, drops),
        stages=[
            [name, c["rows"], c.get("kept"), PAPER_COUNTS.get(name), seconds.get(name)] for name, c in counts.items()
        ],
        source_stages=list(decisions),
        sources=_sources(config, counts, list(decisions)),
        drops=drops,
        rules=[[rule, n] for rule, n in counts.get("decontaminate", {}).get("hits", {}).items()],
        seeded=_seeded(questions, ends),
        verdicts=_verdicts(context, counts),
        cost=[
            [t.model, t.calls, t.errors, t.tries, t.prompt_tokens, t.reasoning_tokens, t.completion_tokens]
            for t in totals
        ],
        notes=_notes(counts),
        provenance=[
            (
                name,
                m["key"][:16],
                m["config_hash"][:16],
                ", ".join(f"{f} {o['sha256'][:12]}" for f, o in sorted(m["outputs"].items())),
            )
            for name, m in manifests.items()
        ],
        domains=_domains(context) if {"domain", "select"} <= set(counts) else None,
        lengths={
            "all traces": context.table("trace", "traces")["thinking_tokens"].drop_nulls().to_list(),
            "selected": context.table("select", "selection")["trace_tokens"].to_list(),
        }
        if "select" in counts
        else None,
        counts=counts | {"seconds": seconds},
        ledger=ends,
        seconds=sum(seconds.values()),
    )


def _sources(config: Config, counts: dict[str, Any], names: list[str]) -> list[list[Any]]:
    paper = {cls.info.name: cls.info.paper for cls in PAPER}
    rows = [
        [
            source.label,
            source.info.paper or paper.get(source.label.rpartition("/")[2]),
            *(counts[name]["sources"].get(source.label, 0) for name in names),
        ]
        for source in config.collect.sources
    ]
    _, *columns = zip(*rows, strict=True)
    return [*rows, ["all", *(None if None in column else sum(column) for column in columns)]]


def _drops(
    private: list[str], decisions: dict[str, pl.DataFrame], questions: pl.DataFrame, examples: int
) -> list[tuple[str, str, int, list[tuple[str, str, str]]]]:
    texts = questions.select("row_id", "question", "source")
    found = []
    for stage, table in decisions.items():
        lost = table.filter(~pl.col("keep"))
        for rule, count in sorted(lost.group_by("rule").len().iter_rows(), key=lambda pair: (-pair[1], pair[0])):
            source = pl.coalesce("source", pl.col("row_id").str.replace(r"/[^/]*$", ""))
            told = (
                lost.filter(pl.col("rule") == rule)
                .sort("row_id")
                .head(examples)
                .join(texts, on="row_id", how="left", maintain_order="left")
                .select(
                    "row_id",
                    pl.when(source.is_in(private))
                    .then(pl.lit(PRIVATE))
                    .otherwise(pl.col("question", "evidence").fill_null("").str.head(SHOWN))
                    .name.keep(),
                )
            )
            found.append((stage, rule, count, told.rows()))
    return found


def _seeded(questions: pl.DataFrame, ends: pl.DataFrame) -> list[list[Any]]:
    marked = questions.select("row_id", pl.col("meta").str.json_path_match("$.seeded").alias("seeded")).drop_nulls()
    groups = (
        marked.with_columns(rows=pl.len().over("seeded"))
        .join(ends, on="row_id")
        .with_columns(end=pl.when("kept").then(pl.lit("selected")).otherwise(pl.format("{}: {}", "stage", "rule")))
        .group_by("seeded", "rows", "end")
        .len()
        .sort("seeded", pl.col("len") * -1, "end")
    )
    return list(map(list, groups.iter_rows()))


def _verdicts(context: Context, counts: dict[str, Any]) -> list[list[Any]]:
    """[what was graded, model, yes, no, ungradable]; of the selected traces, too: s1 kept wrong ones on purpose."""
    found = [
        [{"grades": "attempts", "trace_grades": "traces"}[name], model, verdicts]
        for name, models in counts.get("grade", {}).get("verdicts", {}).items()
        for model, verdicts in models.items()
    ]
    if "select" in counts:
        chosen = context.table("grade", "trace_grades").join(context.table("select", "selection"), on="qid", how="semi")
        for (model,), rows in sorted(chosen.group_by("model")):
            found.append(["selected traces (s1K: 536 of 1,000 right)", model, counts_of(rows, "verdict")])
    return [[what, model, *(v.get(name, 0) for name in ("yes", "no", "ungradable"))] for what, model, v in found]


def _notes(counts: dict[str, Any]) -> list[list[Any]]:
    notes: list[list[Any]] = [
        [f"{stage}: {words} {what}", value]
        for stage, figures, words in (
            ("trace", "finish_reasons", "ended by"),
            ("attempt", "finish_reasons", "ended by"),
            ("grade", "graders", "decided by"),
            ("domain", "classifiers", "labelled by"),
            ("domain", "agreement", "agreement of model and fallback,"),
        )
        for what, value in counts.get(stage, {}).get(figures, {}).items()
    ]
    made = counts.get("format", {})
    tokens = {"tokens": " in all (s1K: 4.7M)", "trained": "", "thinking_tokens": "", "attempt_tokens": ""}
    return notes + [[f"format: {what}{about}", made[what]] for what, about in tokens.items() if what in made]


def _domains(context: Context) -> pl.DataFrame:
    """[title, pool, selected]."""
    labels = context.table("domain", "domains").with_columns(pl.format("{} {}", "code", "title").alias("title"))
    return (
        labels.join(context.table("select", "selection").select("qid", picked=1), on="qid", how="left")
        .group_by("title")
        .agg(
            pl.len().cast(pl.Int64).alias("pool"), pl.col("picked").fill_null(0).sum().cast(pl.Int64).alias("selected")
        )
    )
