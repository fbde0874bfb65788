"""Questions that an evaluation set holds are dropped: on the union of all sources, after everything has been collected.

s1 ran its filter source by source and added AIME afterwards, unchecked; one of its thousand questions is also in
MATH500.
"""

from typing import Any

import numpy as np
import polars as pl

from curate.config import Decontaminate, Evaluation
from curate.progress import Progress, no_progress
from curate.records import PRIVATE, decisions
from curate.selection.overlap import s1_matches, scored_matches
from curate.sources.procedural import heldout
from curate.table_io import files, read_rows
from engine.errors import InputError
from engine.rows_file import BadRow

MATCHES = pl.Schema(
    {
        "row_id": pl.String,
        "evaluation": pl.String,
        "rule": pl.String,
        "coverage": pl.Float64,
        "run": pl.Int64,
        "similarity": pl.Float64,
        "ngram": pl.String,
    }
)
"""Evidence of both rules: `evaluation` is "name/row"; `rule` is `s1`, or one of `equal`, `coverage`, `run`, `fuzzy`."""


def load_evaluations(sets: tuple[Evaluation, ...]) -> pl.DataFrame:
    """[evaluation, question, private] of all sets. Raises InputError for a row without the set's field."""
    rows = []
    for evaluation in sets:
        texts = [problem.prompt for problem in heldout(evaluation.seed, evaluation.heldout or 0)]
        for path in files((evaluation.path,) if evaluation.path else ()):
            for _, row in read_rows(path):
                question = None if isinstance(row, BadRow) else row.get(evaluation.field)
                if not isinstance(question, str):
                    reason = row.reason if isinstance(row, BadRow) else _missing(row, evaluation.field)
                    raise InputError(
                        f"{path}:{len(texts) + 1}: {reason}; an evaluation set must be whole to filter against"
                    )
                texts.append(question)
        rows += [(f"{evaluation.name}/{i}", text, evaluation.private) for i, text in enumerate(texts, start=1)]
    return pl.DataFrame(
        rows, schema={"evaluation": pl.String, "question": pl.String, "private": pl.Boolean}, orient="row"
    )


def _missing(row: dict[str, Any], field: str) -> str:
    return f"no text in field {field!r}; the row has {', '.join(map(str, row)) or 'none'}"


def decontaminate(
    questions: pl.DataFrame, evaluations: pl.DataFrame, settings: Decontaminate, advance: Progress = no_progress
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """(decisions [DECISION], matches [MATCHES]) for `questions` [row_id, qid, question], in their order.

    `advance` is told of a quarter of the rows after each of the four comparisons, which take all rows at once.
    """
    quarters = np.diff(np.linspace(0, questions.height, 5).astype(int)).tolist()

    def compared() -> None:
        advance(quarters.pop())

    matches = pl.DataFrame(schema=MATCHES).with_columns(pl.lit(0).alias("document"))
    if evaluations.height and questions.height:
        by_s1 = s1_matches(questions["question"], evaluations["question"])
        compared()
        matches = pl.concat([by_s1, scored_matches(questions["question"], evaluations["question"], settings, compared)])
        matches = matches.with_columns(
            pl.Series("row_id", questions["row_id"].gather(matches["document"])),
            pl.Series("private", evaluations["private"].gather(matches["evaluation"])),
            pl.Series("evaluation", evaluations["evaluation"].gather(matches["evaluation"])),
        ).with_columns(pl.when("private").then(pl.lit(PRIVATE)).otherwise("ngram").alias("ngram"))
    else:
        advance(questions.height)
    matches = matches.select(MATCHES.names()).cast(MATCHES)  # type: ignore[arg-type]
    mine = matches.filter((pl.col("rule") == "s1") == (settings.rule == "s1"))
    table = questions.select("row_id", "qid").join(mine, on="row_id", how="left", maintain_order="left")
    made = decisions(
        table,
        "decontaminate",
        keep=pl.col("rule").is_null(),
        rule=pl.format(f"{settings.rule}:{{}}", "rule").fill_null("kept"),
        evidence=pl.concat_str(
            pl.col("evaluation"),
            pl.format(", coverage {}", pl.col("coverage").round(2)),
            pl.format(", run of {} words", "run"),
            pl.format(", similarity {}", pl.col("similarity").round(1)),
            pl.format(": {}", "ngram"),
            ignore_nulls=True,
        ).fill_null(""),
    )
    return made, matches
