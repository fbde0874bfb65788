"""Difficulty: a question that a weak model solves teaches little, so it is dropped; and how long its trace is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import polars as pl

from engine.errors import InputError
from engine.json_file import read_object
from engine.text.encoder import Encoder

DIFFICULTY_SCHEMA: Mapping[str, type[pl.DataType]] = {
    "qid": pl.String,
    "keep": pl.Boolean,
    "rule": pl.String,
    "evidence": pl.String,
}
"""A decision: rule `hard` (kept), `solved`, `ungradable` or `no_attempt`."""

LENGTH_BATCH = 1000


def difficulty(
    questions: pl.DataFrame, grades: pl.DataFrame, ungradable: Literal["drop", "keep"] = "drop"
) -> pl.DataFrame:
    """Keeps a question if no attempt of any model solved it; a row of `DIFFICULTY_SCHEMA` for each, in their order.

    Args:
        questions: column qid.
        grades: columns qid, model, verdict of all models' attempts together.
        ungradable: what becomes of a question that was not solved and has an attempt that nothing could grade; s1
            dropped it.

    Raises:
        ValueError: `ungradable` is neither.
    """
    if ungradable not in ("drop", "keep"):
        raise ValueError(f"ungradable is {ungradable!r}; give drop or keep")
    per_question = grades.group_by("qid").agg(
        pl.col("model").filter(pl.col("verdict") == "yes").unique().sort().alias("solvers"),
        (pl.col("verdict") == "ungradable").sum().alias("ungraded"),
        pl.len().alias("attempts"),
    )
    missed, solved, unsure = pl.col("attempts").is_null(), pl.col("solvers").list.len() > 0, pl.col("ungraded") > 0
    return questions.join(per_question, on="qid", how="left", maintain_order="left").select(
        "qid",
        keep=(~missed & ~solved & (~unsure | (ungradable == "keep"))).fill_null(False),
        rule=pl.when(missed)
        .then(pl.lit("no_attempt"))
        .when(solved)
        .then(pl.lit("solved"))
        .when(unsure)
        .then(pl.lit("ungradable"))
        .otherwise(pl.lit("hard")),
        evidence=pl.when(missed)
        .then(pl.lit("no attempt at it"))
        .when(solved)
        .then(pl.col("solvers").list.join(", "))
        .otherwise(pl.format("{} of {} attempts", "ungraded", "attempts")),
    )


def lengths(traces: pl.DataFrame, tokenizer: Path | None = None) -> pl.DataFrame:
    """Columns qid, trace_tokens, a row for each trace in their order; null where there is no trace.

    Args:
        traces: columns qid, thinking, thinking_tokens.
        tokenizer: a tokenizer.json, or a directory with one, to count the thinking with; None: the model's own count.

    Raises:
        InputError: there is no such tokenizer.
    """
    if tokenizer is None:
        return traces.select("qid", pl.col("thinking_tokens").alias("trace_tokens"))
    path = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
    if not path.exists():
        raise InputError(f"no tokenizer at {path}; name a tokenizer.json or the directory that holds one")
    encoder = Encoder(read_object(path))
    counts: list[int | None] = []
    for batch in traces.iter_slices(LENGTH_BATCH):
        texts = batch["thinking"].to_list()
        encoded = iter(encoder.encode_batch([text for text in texts if text is not None]))
        counts += [None if text is None else len(next(encoded)) for text in texts]
    return pl.DataFrame(
        {"qid": traces["qid"], "trace_tokens": counts}, schema={"qid": pl.String, "trace_tokens": pl.Int64}
    )
