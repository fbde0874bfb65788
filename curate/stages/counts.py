"""What is counted of a stage's decisions."""

from typing import Any

import polars as pl


def count_by_source(table: pl.DataFrame) -> dict[str, int]:
    """Rows of each source, by the source's part of `row_id`."""
    names = table.select(pl.col("row_id").str.replace(r"/\d+$", "").alias("source"))
    return dict(sorted(names.group_by("source").len().iter_rows()))


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
