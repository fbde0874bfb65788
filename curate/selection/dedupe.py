"""Duplicates: exact on the canonical text, near by MinHash candidates that the true Jaccard similarity confirms.

A row is dropped in favour of the earliest row, in the order of sources, that it duplicates. MinHash (Broder 1997) over
word shingles finds candidates; what decides is the similarity of the shingle sets themselves.
"""

from collections import defaultdict

import numpy as np
import polars as pl
from rensa import RMinHash

from curate.config import Dedupe
from curate.progress import Progress, no_progress
from curate.records import decisions
from curate.selection.shingles import mixed, shingles
from curate.words import numbers, plain, words

PASSAGE, REST = 40, 10
"""Shingles of a common beginning that may be a passage, and of what must be left for it to be one."""


def near_duplicates(questions: pl.DataFrame, settings: Dedupe, advance: Progress = no_progress) -> pl.DataFrame:
    """Rows [row_id, of, jaccard] that an earlier kept row resembles, by the order of `questions` [row_id, question]."""
    texts = questions.select(plain("question"))
    found = shingles(texts.select(words("question")).to_series(), settings.shingle)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(
        found.hashes, found.offsets.astype(np.uint64), settings.permutations, 42
    )
    signatures = np.asarray(matrix.to_rows(), dtype=np.uint32).reshape(questions.height, settings.permutations)
    block = (
        texts.select(numbers("question")).to_series().hash(seed=1).to_numpy()
        if settings.same_numbers
        else np.zeros(questions.height, dtype=np.uint64)
    )
    shared = _shared_buckets(signatures, block, settings.bands)
    advance(questions.height - len(shared))
    dropped: list[tuple[str, str, float]] = []
    ids = questions["row_id"]
    # Buckets hold kept rows only, so a crowd of copies costs one comparison each.
    buckets: dict[int, list[int]] = defaultdict(list)
    for row, keys in shared:
        advance(1)
        for other in sorted({kept for key in keys for kept in buckets[key]}):
            similarity = likeness(found.of(row), found.of(other))
            if similarity >= settings.jaccard:
                dropped.append((ids[row], ids[other], round(similarity, 4)))
                break
        else:
            for key in keys:
                buckets[key].append(row)
    return pl.DataFrame(dropped, schema={"row_id": pl.String, "of": pl.String, "jaccard": pl.Float64}, orient="row")


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Size of the intersection by that of the union, of two arrays taken as sets."""
    a, b = np.unique(a), np.unique(b)
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / max(len(a) + len(b) - common, 1)


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Jaccard similarity of two questions' shingles, given in their order.

    Questions on one reading passage are not the same question: where a long beginning is common and something of some
    length is left of both, what is left must be alike, too.
    """
    size = min(len(a), len(b))
    differ = np.flatnonzero(a[:size] != b[:size])
    common = int(differ[0]) if len(differ) else size
    passage = common >= PASSAGE and size - common >= REST
    return min(jaccard(a, b), jaccard(a[common:], b[common:]) if passage else 1.0)


def _shared_buckets(signatures: np.ndarray, block: np.ndarray, bands: int) -> list[tuple[int, list[int]]]:
    """(row, its buckets) in the order of rows: buckets are a band's values and the row's block, and those that hold
    one row only are left out."""
    rows = signatures.shape[1] // bands
    shared: dict[int, list[int]] = defaultdict(list)
    for band in range(bands):
        key = mixed(block, np.uint64(band))
        for column in signatures[:, band * rows : (band + 1) * rows].T:
            key = mixed(key, column)
        _, bucket, counts = np.unique(key, return_inverse=True, return_counts=True)
        for row in np.flatnonzero(counts[bucket] > 1):
            shared[int(row)].append(int(key[row]))
    return sorted(shared.items())


def dedupe(questions: pl.DataFrame, settings: Dedupe, advance: Progress = no_progress) -> pl.DataFrame:
    """Decisions [DECISION] for all rows of `questions` (row_id, qid, question; in order of priority)."""
    first = pl.col("row_id").first().over("qid")
    table = questions.with_columns(pl.when(first != pl.col("row_id")).then(first).alias("same_as"))
    rest = table.filter(pl.col("same_as").is_null())
    advance(questions.height - rest.height)
    table = table.join(near_duplicates(rest, settings, advance), on="row_id", how="left", maintain_order="left")
    same, near_to = pl.col("same_as").is_not_null(), pl.col("of").is_not_null()
    return decisions(
        table,
        "dedupe",
        keep=~same & ~near_to,
        rule=pl.when(same)
        .then(pl.lit("exact_duplicate"))
        .when(near_to)
        .then(pl.lit("near_duplicate"))
        .otherwise(pl.lit("kept")),
        evidence=pl.coalesce(
            pl.format("same text as {}", "same_as"), pl.format("Jaccard {} with {}", "jaccard", "of"), pl.lit("")
        ),
    )
