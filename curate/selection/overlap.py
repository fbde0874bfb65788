"""What questions share with evaluation questions: word n-grams, how much of the evaluation question they cover, the
longest run, and the likeness of short questions as wholes.

Two rules, and the evidence of both:

- `s1`, what s1 did: lower case, split at white space, any one common 8-gram. Stock phrases are hits; questions of fewer
  than 8 words never are.
- `scored`: n-grams that many unrelated questions have, with whatever numbers, say nothing and are left out; what counts
  is the share of the evaluation question that the others cover, or a long run of them. Short questions are compared as
  wholes. A question that is related to the evaluation question (it covers as much of it as the rule asks for) does not
  make its words common: five edited copies are five hits and no stock phrase.
"""

from collections.abc import Callable
from itertools import groupby, pairwise

import numpy as np
import polars as pl
from rapidfuzz import fuzz, process

from curate.config import Decontaminate
from curate.selection.shingles import Shingles, shingles
from curate.words import NUMBER, numbers, plain, words

S1_NGRAM = 8
COPIES = 16
"""Copies of one evaluation question that a pool may hold before its words count as common."""
RAREST = 3
"""Words of a short evaluation question of which a question must have one to be compared as a whole."""

MATCH = pl.Schema(
    {
        "document": pl.Int64,
        "evaluation": pl.Int64,
        "rule": pl.String,
        "coverage": pl.Float64,
        "run": pl.Int64,
        "similarity": pl.Float64,
        "ngram": pl.String,
    }
)
"""A question (row number) and an evaluation question (row number) that the rule takes for the same."""


def s1_matches(questions: pl.Series, evaluations: pl.Series) -> pl.DataFrame:
    """MATCH rows of rule `s1`: for every question with a common 8-gram, the first evaluation question that has it."""
    spaced = [text.str.to_lowercase().str.extract_all(r"\S+") for text in (questions, evaluations)]
    documents, references = (_long_enough(shingles(text, S1_NGRAM), S1_NGRAM) for text in spaced)
    first = (
        documents.join(references, on="hash", suffix="_eval")
        .group_by("document", "document_eval")
        .agg(pl.col("at_eval").unique().sort().alias("starts"), pl.col("at").min(), pl.len().alias("hits"))
        .sort("document", pl.col("hits") * -1, "document_eval")
        .group_by("document", maintain_order=True)
        .first()
    )
    return pl.DataFrame(
        [
            (
                d,
                e,
                "s1",
                _share(starts, S1_NGRAM, len(spaced[1][e])),
                _longest(starts, S1_NGRAM),
                None,
                " ".join(spaced[0][d][at : at + S1_NGRAM]),
            )
            for d, e, starts, at, _ in first.iter_rows()
        ],
        schema=MATCH,
        orient="row",
    )


def scored_matches(
    questions: pl.Series, evaluations: pl.Series, settings: Decontaminate, compared: Callable[[], None]
) -> pl.DataFrame:
    """MATCH rows of rule `scored`: one a question, the strongest. `compared` is called after each of three parts."""
    questions, evaluations = (
        text.to_frame("text").select(plain("text")).to_series() for text in (questions, evaluations)
    )
    tokens = [text.to_frame("text").select(words("text")).to_series() for text in (questions, evaluations)]
    parts = []
    for part in (_equal, _covering, _alike):
        parts.append(part(questions, evaluations, tokens, settings))
        compared()
    order = {"equal": 0, "coverage": 1, "run": 2, "fuzzy": 3}
    return (
        pl.concat(parts)
        .sort(
            "document",
            pl.col("rule").replace_strict(order, return_dtype=pl.Int64),
            -pl.col("coverage").fill_null(0),
            "evaluation",
        )
        .group_by("document", maintain_order=True)
        .first()
        .select(MATCH.names())
    )


def _long_enough(found: Shingles, n: int) -> pl.DataFrame:
    """[document, at, hash] of documents with at least n words."""
    counts = np.diff(found.offsets)
    return pl.DataFrame(
        {"document": np.repeat(np.arange(len(counts)), counts), "at": found.first, "hash": found.hashes}
    ).filter(pl.Series(np.repeat(found.words >= n, counts)))


def _ngrams(text: pl.Series, n: int) -> pl.DataFrame:
    """[document, at, hash, form]: `form` is the hash with every number taken for the same."""
    form = text.to_frame("text").with_columns(pl.col("text").str.replace_all(NUMBER, "0 ")).select(words("text"))
    table = _long_enough(shingles(text.to_frame("text").select(words("text")).to_series(), n), n)
    return table.with_columns(_long_enough(shingles(form.to_series(), n), n)["hash"].alias("form"))


def _equal(
    questions: pl.Series, evaluations: pl.Series, tokens: list[pl.Series], settings: Decontaminate
) -> pl.DataFrame:
    """The same words in the same order; at least two."""
    left, right = (
        pl.DataFrame({"words": text.list.join(" "), "count": text.list.len()})
        .with_row_index(name)
        .filter(pl.col("count") >= 2)
        for text, name in zip(tokens, ("document", "evaluation"), strict=True)
    )
    return _match(left.join(right, on="words"), rule=pl.lit("equal"), coverage=pl.lit(1.0))


def _match(pairs: pl.DataFrame, **columns: pl.Expr) -> pl.DataFrame:
    """MATCH rows of `pairs` with `columns`; those that neither has are null."""
    pairs = pairs.with_columns(**columns)
    missing = (pl.lit(None).alias(column) for column in MATCH if column not in pairs.columns)
    return pairs.with_columns(*missing).select(pl.col(column).cast(kind) for column, kind in MATCH.items())


def _covering(
    questions: pl.Series, evaluations: pl.Series, tokens: list[pl.Series], settings: Decontaminate
) -> pl.DataFrame:
    """Questions whose rare n-grams cover enough of an evaluation question, or run along it far enough."""
    n = settings.ngram
    mine, theirs = (_ngrams(text, n) for text in (questions, evaluations))
    held = (
        mine.join(theirs.select("form").unique(), on="form", how="semi")
        .select("form", "document")
        .unique()
        .group_by("form")
        .len("held")
        # Else so many documents have it that even with all allowed copies among them enough unrelated ones are left.
        .filter(pl.col("held") < settings.common + COPIES)
    )
    pairs = (
        mine.join(theirs.select("hash").unique(), on="hash", how="semi")
        .join(held, on="form")
        .join(theirs.select("hash", pl.col("document").alias("evaluation"), pl.col("at").alias("at_eval")), on="hash")
    )
    sizes = tokens[1].list.len()
    related = _scores(pairs, sizes, n).filter(pl.col("coverage") >= settings.coverage)
    copies = (
        pairs.select("hash", "evaluation", "document")
        .unique()
        .join(related, on=["evaluation", "document"], how="semi")
        .group_by("hash", "evaluation")
        .len("copies")
    )
    rare = pairs.join(copies, on=["hash", "evaluation"], how="left").filter(
        pl.col("held") - pl.col("copies").fill_null(0) < settings.common
    )
    scores = _scores(rare, sizes, n)
    # Neighbouring n-grams on one diagonal are a run of words common to both.
    runs = (
        rare.select("document", "evaluation", "at", (pl.col("at") - pl.col("at_eval")).alias("shift"))
        .unique()
        .sort("document", "evaluation", "shift", "at")
        .with_columns((pl.col("at") - pl.int_range(pl.len()).over("document", "evaluation", "shift")).alias("chain"))
        .group_by("document", "evaluation", "shift", "chain")
        .agg(pl.len() + n - 1, pl.col("at").min())
        .sort("document", "evaluation", -pl.col("len").cast(pl.Int64), "at")
        .group_by("document", "evaluation", maintain_order=True)
        .first()
        .select("document", "evaluation", "at", pl.col("len").alias("run"))
    )
    table = scores.join(runs, on=["document", "evaluation"]).sort("document", "evaluation")
    covers = (pl.col("coverage") >= settings.coverage) & (pl.col("covered") >= settings.least_words)
    table = table.filter(covers | (pl.col("run") >= settings.run)).with_columns(
        pl.when(covers).then(pl.lit("coverage")).otherwise(pl.lit("run")).alias("rule")
    )
    ngrams = [
        " ".join(tokens[0][d][at : at + min(run, 12)])
        for d, at, run in table.select("document", "at", "run").iter_rows()
    ]
    return _match(table.with_columns(pl.Series("ngram", ngrams, dtype=pl.String)))


def _scores(pairs: pl.DataFrame, sizes: pl.Series, n: int) -> pl.DataFrame:
    """[document, evaluation, covered, coverage]: words of the evaluation question inside common n-grams."""
    gap = pl.col("at_eval").shift(-1).over("document", "evaluation") - pl.col("at_eval")
    size = sizes.to_frame("size").with_row_index("evaluation").with_columns(pl.col("evaluation").cast(pl.Int64))
    return (
        pairs.select("document", "evaluation", "at_eval")
        .unique()
        .sort("document", "evaluation", "at_eval")
        .with_columns(pl.min_horizontal(gap, n).fill_null(n).alias("new"))
        .group_by("document", "evaluation")
        .agg(pl.col("new").sum().alias("covered"))
        .join(size, on="evaluation")
        .select("document", "evaluation", "covered", (pl.col("covered") / pl.col("size")).alias("coverage"))
    )


def _alike(
    questions: pl.Series, evaluations: pl.Series, tokens: list[pl.Series], settings: Decontaminate
) -> pl.DataFrame:
    """Short evaluation questions and questions with the same numbers and nearly the same text, in any word order."""
    sides = (
        pl.DataFrame({"text": texts, "words": words_of, "size": words_of.list.len()})
        .with_row_index(name)
        .with_columns(numbers("text").alias("numbers"))
        .filter(pl.col("size").is_between(2, settings.short * longer))
        for texts, words_of, name, longer in (
            (questions, tokens[0], "document", 1.25),
            (evaluations, tokens[1], "evaluation", 1),
        )
    )
    single = [side.explode("words", empty_as_null=True).unique([side.columns[0], "words"]) for side in sides]
    rarest = (
        single[1]
        .join(single[0].group_by("words").len("held"), on="words")
        .sort("evaluation", "held", "words")
        .group_by("evaluation", maintain_order=True)
        .head(RAREST)
    )
    pairs = (
        rarest.join(single[0], on=["words", "numbers"], suffix="_doc")
        .filter((pl.col("size_doc") >= 0.7 * pl.col("size")) & (pl.col("size_doc") <= 1.3 * pl.col("size")))
        .unique(["document", "evaluation"])
        .sort("document", "evaluation")
    )
    texts = [pairs[c].to_list() for c in ("text", "text_doc")]
    scores = [
        process.cpdist(*texts, scorer=scorer, score_cutoff=settings.fuzzy)
        for scorer in (fuzz.ratio, fuzz.token_sort_ratio)
    ]
    pairs = pairs.with_columns(pl.Series("similarity", np.maximum(*scores).astype(np.float64), dtype=pl.Float64))
    return _match(pairs.filter(pl.col("similarity") >= settings.fuzzy), rule=pl.lit("fuzzy"))


def _share(starts: list[int], n: int, size: int) -> float:
    """Share of `size` words that lie inside n-grams at `starts` (sorted)."""
    return (n + sum(min(after - before, n) for before, after in pairwise(starts))) / size


def _longest(starts: list[int], n: int) -> int:
    """Words of the longest run of n-grams at neighbouring `starts` (sorted)."""
    runs = groupby(enumerate(starts), key=lambda pair: pair[1] - pair[0])
    return max(len(list(run)) for _, run in runs) + n - 1
