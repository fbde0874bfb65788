"""Word n-grams of many texts at once, as 64-bit hashes in flat arrays."""

from dataclasses import dataclass

import numpy as np
import polars as pl


@dataclass(frozen=True)
class Shingles:
    """Word n-grams of documents as 64-bit hashes: those of document i are hashes[offsets[i] : offsets[i + 1]].

    A document shorter than n words has one shingle, all of its words. `first` [shingles] is the position of each
    shingle's first word within its document.
    """

    hashes: np.ndarray
    offsets: np.ndarray
    first: np.ndarray
    words: np.ndarray
    """Words of each document."""

    def of(self, document: int) -> np.ndarray:
        return self.hashes[self.offsets[document] : self.offsets[document + 1]]


def mixed(hashes: np.ndarray, values: np.ndarray | np.uint64) -> np.ndarray:
    """`values` worked into 64-bit `hashes` (the finalising step of MurmurHash3)."""
    hashes = (hashes ^ values) * np.uint64(0xFF51AFD7ED558CCD)
    return hashes ^ (hashes >> np.uint64(33))


def shingles(texts: pl.Series, n: int) -> Shingles:
    """All word n-grams of `texts`, a series of word lists; equal words give equal hashes in every process."""
    lengths = texts.list.len().fill_null(0).to_numpy().astype(np.int64)
    flat = texts.explode(empty_as_null=False, keep_nulls=False).hash(seed=0).to_numpy()
    starts = np.concatenate([[0], np.cumsum(lengths)])
    counts = np.where(lengths == 0, 0, np.maximum(lengths - n + 1, 1))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    document = np.repeat(np.arange(len(lengths)), counts)
    first = np.arange(offsets[-1]) - offsets[document]
    at, ends = starts[document] + first, starts[document + 1]
    hashes = np.full(len(at), 0x9E3779B97F4A7C15, dtype=np.uint64)
    for i in range(n):
        inside = at + i < ends
        word = np.where(inside, flat[np.minimum(at + i, max(len(flat) - 1, 0))], np.uint64(i)) if len(flat) else hashes
        hashes = mixed(hashes, word)
    return Shingles(hashes, offsets, first, lengths)
