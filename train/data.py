"""Samples: read once, held as flat arrays; the order of an epoch is a pure function of (seed, epoch)."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import InputError
from engine.model.embedded import folder_of
from engine.rows_file import BadRow, read_rows
from engine.text.tokenizer import Tokenizer
from engine.text.training_text import training_tokens
from train.config import Data, Model
from train.errors import TrainingError
from train.files import DataFile, data_files, refuse_repeats
from train.text import marked_tokens, messages_of


@dataclass(frozen=True)
class Dataset:
    """`tokens` [total] int32 and `trained` [total] bool of all samples; sample i is offsets[i] .. offsets[i+1].

    `targets` [samples] int64: tokens that carry loss (the first token of a sample has no predecessor and never does).
    """

    ids: tuple[str, ...]
    tokens: np.ndarray
    trained: np.ndarray
    offsets: np.ndarray
    targets: np.ndarray
    dropped: tuple[str, ...] = ()
    files: tuple[DataFile, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def subset(self, chosen: np.ndarray) -> "Dataset":
        """The samples at the indices `chosen` [n], in that order."""
        spans = [np.arange(self.offsets[i], self.offsets[i + 1]) for i in chosen]
        places = np.concatenate(spans) if spans else np.empty(0, dtype=np.int64)
        return Dataset(
            tuple(self.ids[i] for i in chosen),
            self.tokens[places],
            self.trained[places],
            offsets=np.cumsum([0, *map(len, spans)], dtype=np.int64),
            targets=self.targets[chosen],
            dropped=self.dropped,
            files=self.files,
        )

    def split(self, share: float) -> tuple["Dataset", "Dataset"]:
        """(the rest, about `share` of the samples and at least one), by a hash of each one's tokens: samples with the
        same tokens are on the same side. Raises TrainingError where no sample would be left to train on."""
        hashes = [int.from_bytes(digest[:8], "big") for digest in self.digests()]
        least = min(hashes)
        held = np.array([value < share * 2**64 or value == least for value in hashes], dtype=bool)
        if held.all():
            raise TrainingError(
                f"data.heldout_share is {share:g} and all of {len(self):,} samples would be held out; "
                "give another share"
            )
        return self.subset(np.flatnonzero(~held)), self.subset(np.flatnonzero(held))

    def digests(self) -> list[bytes]:
        """SHA-256 of each sample's tokens, whatever it is called and wherever it lies."""
        tokens = np.ascontiguousarray(self.tokens, dtype="<i4")
        return [hashlib.sha256(tokens[a:b].tobytes()).digest() for a, b in pairwise(self.offsets)]

    def of_which_in(self, other: "Dataset") -> int:
        """How many samples have the same tokens as a sample of `other`."""
        theirs = set(other.digests())
        return sum(digest in theirs for digest in self.digests())

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    @property
    def fingerprint(self) -> str:
        """Changes when any token, mask or the order of samples does."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.trained, self.offsets):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()[:16]


def open_tokenizer(model: Model, config_file: Path) -> Tokenizer | None:
    """The tokenizer of `model.tokenizer`, or the one beside config.json if there is one: `tokens` records need none."""
    if model.tokenizer is None and not config_file.with_name("tokenizer.json").is_file():
        return None
    return Tokenizer.load(folder_of(model.tokenizer) if model.tokenizer else config_file.parent)


def read_dataset(
    named: tuple[str, ...], config: Data, tokenizer: Tokenizer | None, vocab_size: int, setting: str = "data.train"
) -> Dataset:
    """Reads the records of the files that `named`, the value of `setting`, stands for (see train.files);
    docs/training.md has the shapes a record may have.

    Raises TrainingError that names file, line and field, and the sample that is too long when `on_too_long` is error.
    """
    files = data_files(named, setting)
    records = [(f"{file.name}:{number}", record) for file in files for number, record in _records(file)]
    with ThreadPoolExecutor() as pool:  # tokenizing leaves Python alone
        encoded = list(pool.map(lambda each: _sample(each[1], each[0], config, tokenizer), records))
    names = [str(record.get("id", place)) for place, record in records]
    samples = [(name, *sample) for name, sample in zip(names, encoded, strict=True)]
    dropped = [(name, len(tokens)) for name, tokens, _ in samples if len(tokens) > config.max_tokens]
    if dropped and config.on_too_long == "error":
        raise TrainingError(
            f"sample {dropped[0][0]} has {dropped[0][1]} tokens, more than data.max_tokens = {config.max_tokens}; "
            "raise max_tokens or set data.on_too_long: drop"
        )
    kept = [sample for sample in samples if len(sample[1]) <= config.max_tokens]
    for name, tokens, trained in kept:
        if not trained[1:].any():
            raise TrainingError(f"sample {name} has no token to train on ({len(tokens)} tokens); remove it")
        if tokens.min() < 0 or tokens.max() >= vocab_size:
            raise TrainingError(
                f"sample {name} has tokens from {tokens.min()} to {tokens.max()}, the model's vocabulary is "
                f"0 to {vocab_size - 1}; model.tokenizer does not belong to this model"
            )
    if not kept:
        raise TrainingError(f"{', '.join(named)}: no sample left to train on ({len(dropped)} dropped as too long)")
    ids, streams, masks = zip(*kept, strict=True)
    return Dataset(
        ids,
        tokens=np.concatenate(streams).astype(np.int32),
        trained=np.concatenate(masks),
        offsets=np.cumsum([0, *map(len, streams)], dtype=np.int64),
        targets=np.asarray([mask[1:].sum() for mask in masks], dtype=np.int64),
        dropped=tuple(name for name, _ in dropped),
        files=files,
    )


def read_sets(config: Data, tokenizer: Tokenizer | None, vocab_size: int) -> tuple[Dataset, Dataset | None]:
    """What is trained on, and what is held out, where anything is. Raises TrainingError as `read_dataset` does, and
    naming both where one file is given twice."""
    data = read_dataset(config.train, config, tokenizer, vocab_size)
    if config.heldout_share:
        refuse_repeats({"data.train": data.files})
        return data.split(config.heldout_share)
    heldout = read_dataset(config.heldout, config, tokenizer, vocab_size, "data.heldout") if config.heldout else None
    refuse_repeats({"data.train": data.files, "data.heldout": heldout.files if heldout is not None else ()})
    return data, heldout


def _records(file: DataFile) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in read_rows(file.path):
        if isinstance(row, BadRow):
            raise TrainingError(f"{file.name}:{number}: {row.reason}")
        yield number, row


def _sample(
    record: dict[str, Any], place: str, config: Data, tokenizer: Tokenizer | None
) -> tuple[np.ndarray, np.ndarray]:
    """Token ids [n] int32 and `trained` [n] bool of a record."""
    everything = config.loss == "all"
    if "tokens" in record:
        if "trained" not in record and not everything:
            raise TrainingError(
                f"{place}: a `tokens` record needs `trained` (0/1 per token) when data.loss is assistant"
            )
        tokens = _integers(record["tokens"], "iu", f"{place}: `tokens`")
        # The record's own mask is the more specific word, also when data.loss is all.
        trained = _integers(record.get("trained", [1] * len(tokens)), "iub", f"{place}: `trained`")
        if trained.shape != tokens.shape or not ((trained == 0) | (trained == 1)).all():
            raise TrainingError(f"{place}: `trained` must hold one 0 or 1 for each of the {len(tokens)} tokens")
        return tokens, trained.astype(bool)
    if tokenizer is None:
        raise TrainingError(f"{place}: text records need a tokenizer; set model.tokenizer")
    try:
        ids, mask = _text_tokens(record, place, config, tokenizer)
    except InputError as error:
        raise error if isinstance(error, TrainingError) else TrainingError(f"{place}: {error}") from None
    return np.asarray(ids, dtype=np.int32), np.asarray(mask, dtype=bool) | everything


def _text_tokens(
    record: dict[str, Any], place: str, config: Data, tokenizer: Tokenizer
) -> tuple[list[int], list[bool]]:
    messages = record["messages"] if "messages" in record else messages_of(record, place)
    if messages is not None:
        return training_tokens(tokenizer, messages)
    if not isinstance(record.get("text"), str):
        raise TrainingError(
            f"{place}: fields {sorted(record)} are none of: question + thinking + answer, messages, text, tokens"
        )
    if config.loss != "all":
        return marked_tokens(tokenizer, record["text"], place)
    if config.eos and tokenizer.special_id(config.eos) is None:
        raise TrainingError(f"data.eos {config.eos!r} is not a special token of the tokenizer; name one")
    ids = tokenizer.encode(record["text"] + (config.eos or ""), specials=True)
    return ids, [True] * len(ids)


def _integers(values: Any, kinds: str, name: str) -> np.ndarray:
    """The list `values`, of numpy's `kinds`, as int64 [n]."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):  # of lists that differ in length, of whole numbers beyond floats beside floats
        array = np.asarray(None)
    if array.ndim != 1 or (array.dtype.kind not in kinds and len(array)):
        raise TrainingError(f"{name} must be a list of integers")
    return array.astype(np.int64)


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, samples: int) -> np.ndarray:
    """The permutation [samples] of epoch `epoch`; depends on nothing else (PCG64 is stable across numpy versions)."""
    return np.argsort(np.random.Generator(np.random.PCG64([seed, epoch])).random(samples), kind="stable")


def steps_per_epoch(samples: int, config: Data) -> int:
    """Optimiser steps of one pass over the data. Raises TrainingError where there are none."""
    steps = -(-samples // config.batch_size) if config.last_batch == "wrap" else samples // config.batch_size
    if steps == 0:
        raise TrainingError(
            f"{samples} samples are fewer than data.batch_size = {config.batch_size} with last_batch: drop"
        )
    return steps


def step_samples(seed: int, step: int, samples: int, config: Data) -> np.ndarray:
    """Indices [batch_size] of the samples of optimiser step `step` (from 0): a pure function; there is no loader state.

    With `wrap` the last step of an epoch is filled from the epoch's beginning (1,000 samples by 16: 63 steps).
    """
    epoch, within = divmod(step, steps_per_epoch(samples, config))
    at = np.arange(within * config.batch_size, (within + 1) * config.batch_size) % samples
    return epoch_order(seed, epoch, samples)[at]
