"""The tables of the pipeline, and what is counted of them. A schema is the contract: what is written is checked.

Attempts, grades and domains have their schemas beside the functions that make them (`curate.stages.attempts`,
`curate.selection.domains`).
"""

from collections.abc import Sequence
from typing import Any

import polars as pl

from engine.errors import InputError

QUESTION = pl.Schema(
    {
        "row_id": pl.String,  # source and row, "MATH/17"; unique
        "qid": pl.String,  # curate.normalise.question_id; unique once duplicates are marked
        "s1_hash": pl.String,
        "source": pl.String,
        "source_row": pl.Int64,
        "revision": pl.String,  # of the data set, or SHA-256 of the local file
        "licence": pl.String,
        "question": pl.String,
        "solution": pl.String,  # worked solution, null where there is none
        "answer": pl.String,  # the reference to grade against, null where there is none
        "answer_type": pl.String,
        "family": pl.String,  # key of curate.families.FAMILIES, or module.function, for types "family" and "python"
        "cot_type": pl.String,
        "meta": pl.String,  # JSON
    }
)
ANSWER_TYPES = ("number", "latex", "choice", "text", "exact", "code", "none", "family", "python")
COT_TYPES = ("math", "science", "english", "coding", "health science", "crossword")

DECISION = pl.Schema(
    {
        "row_id": pl.String,
        "qid": pl.String,  # null where a row holds no question at all
        "stage": pl.String,
        "keep": pl.Boolean,
        "rule": pl.String,  # what decided, "kept" where nothing spoke against the row
        "evidence": pl.String,
    }
)

SELECTION = pl.Schema(
    {
        "qid": pl.String,
        "mode": pl.String,
        "seed": pl.Int64,
        "order": pl.Int64,  # 0 is the first one picked
        "why": pl.String,  # seed, uniform, benchmark, or the name of the ablation
        "weight": pl.Float64,  # probability of this draw, 1 where nothing was drawn
        "domain": pl.String,
        "trace_tokens": pl.Int64,
    }
)


def checked(table: pl.DataFrame, schema: pl.Schema, name: str) -> pl.DataFrame:
    """`table` with the columns in the schema's order. Raises InputError where a column or a type differs."""
    missing = [c for c in schema if c not in table.columns]
    extra = [c for c in table.columns if c not in schema]
    if missing or extra:
        raise InputError(f"table {name}: missing columns {missing}, unknown columns {extra}")
    for column, wanted in schema.items():
        if table.schema[column] not in (wanted, pl.Null):
            raise InputError(f"table {name}: column {column} is {table.schema[column]}, it must be {wanted}")
    return table.select(pl.col(column).cast(wanted) for column, wanted in schema.items())


def decisions(
    table: pl.DataFrame,
    stage: str,
    keep: pl.Expr | str = "keep",
    rule: pl.Expr | str = "rule",
    evidence: pl.Expr | str = "evidence",
) -> pl.DataFrame:
    """DECISION rows from a table with row_id and qid; a string names a column."""
    return table.select(
        "row_id",
        "qid",
        pl.lit(stage).alias("stage"),
        (pl.col(keep) if isinstance(keep, str) else keep).alias("keep"),
        (pl.col(rule) if isinstance(rule, str) else rule).alias("rule"),
        (pl.col(evidence) if isinstance(evidence, str) else evidence).alias("evidence"),
    ).cast(DECISION)  # type: ignore[arg-type]


PRIVATE = "(kept private)"
_SOURCE = pl.col("row_id").str.replace(r"/\d+$", "")


def hidden(table: pl.DataFrame, private: Sequence[str], column: str) -> pl.DataFrame:
    """`table` with PRIVATE in place of what `column`, a text, holds in rows of private sources."""
    told = _SOURCE.is_in(list(private)) & (pl.col(column) != "")
    return table.with_columns(pl.when(told).then(pl.lit(PRIVATE)).otherwise(column).alias(column))


def count_by_source(table: pl.DataFrame) -> dict[str, int]:
    """Rows of each source, by the source's part of `row_id`."""
    return counts_of(table.select(source=_SOURCE), "source")


def decided(table: pl.DataFrame) -> dict[str, Any]:
    """Counts of a table of decisions: rows in, kept, by rule, and kept by source."""
    return {
        "rows": table.height,
        "kept": int(table["keep"].sum()),
        "rules": counts_of(table, "rule"),
        "sources": count_by_source(table.filter("keep")),
    }


def counts_of(table: pl.DataFrame, column: str) -> dict[str, int]:
    """Rows of each value, sorted by value."""
    return dict(sorted(table.group_by(column).len().iter_rows()))
