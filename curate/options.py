"""The options of a question of one's own, as people write them, and which of them an answer names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from curate.grading.letters import LETTERS, letter_of
from curate.row import RowError
from engine.errors import InputError
from engine.json_file import parse_json


@dataclass(frozen=True)
class Options:
    """`texts`, A first; `labels` are what the file calls them, where it says so, such as 1, 2, 3."""

    texts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def letter(self, answer: str) -> str | None:
        """The letter that an answer names: by the file's label, by the option's whole text, or as a letter; None where
        it names none. Raises RowError where it is the text of one option and the letter of another, or of two."""
        if answer in self.labels:
            return LETTERS[self.labels.index(answer)]
        shown = dict(zip(LETTERS, self.texts, strict=False))
        same = [letter for letter, text in shown.items() if text.casefold() == answer.casefold()]
        said = re.fullmatch(rf"\(?([{LETTERS}])[).:]?", answer.upper())
        if said and said[1] in shown:
            same.append(said[1])
        if len({*same}) > 1:
            raise RowError(
                f"the answer {answer[:60]!r} names options {' and '.join(sorted({*same}))}; say which is right"
            )
        return same[0] if same else letter_of(answer, shown)[0]


def read_options(value: Any, column: str) -> Options:
    """Options from a list, from `{"A": ..., "B": ...}`, from ARC's `{"text": [...], "label": [...]}`, or any of these
    as JSON. Raises RowError naming the column for anything else, and for options that are empty."""
    given = value
    try:
        value = parse_json(value) if isinstance(value, str) else value  # a CSV file's
    except InputError:
        value = None
    labels: Sequence[Any] = ()
    if isinstance(value, Mapping):
        labels = value["label"] if "text" in value and "label" in value else () if "text" in value else [*value]
        value = value.get("text", [*value.values()])
    if isinstance(value, (list, tuple)):
        value = list(value)
        while value and value[-1] is None:  # as Parquet fills up rows that have fewer than others
            value.pop()
        labels = labels[: len(value)] if isinstance(labels, (list, tuple)) else ()
    if not isinstance(value, list) or not 2 <= len(value) <= len(LETTERS):
        raise RowError(
            f"column {column!r} is {str(given)[:60]!r}; a list of 2 to {len(LETTERS)} texts is needed, in CSV as JSON"
        )
    texts = ["" if each is None else str(each).strip() for each in value]
    if "" in texts:
        raise RowError(f"column {column!r}: option {LETTERS[texts.index('')]} is empty; give its text, or take it out")
    marked = [
        re.match(rf"(?:\({letter}\)|{letter}[).:])\s+(?=\S)", text)
        for letter, text in zip(LETTERS, texts, strict=False)
    ]
    if all(marked):  # "(A) red", "(B) green": the letters are written anyway
        texts = [text[mark.end() :] for text, mark in zip(texts, marked, strict=True) if mark]
    return Options(tuple(texts), tuple(str(label).strip() for label in labels) if len(labels) == len(texts) else ())


def with_options(question: str, options: Sequence[str]) -> str:
    """What is asked: the question, with options a blank line below it as lines `A) ...`; alike in training and
    evaluation."""
    lines = map("{}) {}".format, LETTERS, options)
    return "\n".join((question, "", *lines)) if options else question
