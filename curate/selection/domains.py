"""Domains: each question's class in the Mathematics Subject Classification, by a model or, without one, by TF-IDF."""

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from curate.models.asking import Answer, Ask, Model, Sampling
from curate.models.prompt import Prompt
from curate.progress import Progress, no_progress

DOMAIN_SCHEMA: Mapping[str, type[pl.DataType]] = {
    "qid": pl.String,
    "code": pl.String,
    "title": pl.String,
    "source": pl.String,
    "score": pl.Float64,
    "detail": pl.String,
}
"""A label: `source` is model or fallback; `score` the cosine of a fallback label, null for a model's."""


@dataclass(frozen=True)
class Subject:
    """A top-level class of MSC2020: two-digit code, its official title, and what it is about in our words."""

    code: str
    title: str
    about: str


def subjects() -> tuple[Subject, ...]:
    """The 63 top-level classes, by code."""
    _, *lines = Path(__file__).with_name("msc.tsv").read_text(encoding="utf-8").splitlines()
    return tuple(Subject(*line.split("\t")) for line in lines)


def classify(
    questions: pl.DataFrame,
    model: Model,
    sampling: Sampling | None = None,
    prompt: Prompt | None = None,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """A row of `DOMAIN_SCHEMA` per question, in their order; where the model names no class, the fallback's label.

    Args:
        questions: columns qid, question.
        sampling: greedy with 512 tokens if not given.
        prompt: with the fields classes and question; the classes stand first, so they are a prefix of every call.
        progress: called with the number of questions that came in since the last call.
    """
    prompt, sampling = prompt or Prompt.load("domain"), sampling or Sampling(max_tokens=512)
    known = subjects()
    classes = "\n".join(f"{subject.code} {subject.title}: {subject.about}" for subject in known)
    asks = [
        Ask(qid, prompt.messages(classes=classes, question=question), sampling, prompt.version)
        for qid, question in questions.select("qid", "question").iter_rows()
    ]
    answers: dict[str, Answer] = {}
    for answer in model.ask(asks):
        answers[answer.id] = answer
        progress(1)
    titles = {subject.code: subject.title for subject in known}
    rows: list[tuple[object, ...]] = []
    for row in fallback(questions).iter_rows():
        answer = answers[row[0]]
        code = code_in(answer.text, titles) if answer.error is None else None
        why = "the model named no class" if answer.error is None else f"{answer.error}: {answer.detail}"
        named = code and (row[0], code, titles[code], "model", None, answer.text.strip()[:300])
        rows.append(named or (*row[:5], f"{why}; {row[5]}"))
    return pl.DataFrame(rows, schema=dict(DOMAIN_SCHEMA), orient="row")


def code_in(text: str, known: Mapping[str, str]) -> str | None:
    """The class that a reply ends with: a known code, alone on its last line but for punctuation; otherwise None."""
    lines = text.strip().splitlines()
    found = re.fullmatch(r"\W*(?:(?:MSC|class|code|answer)\W*)?(\d\d)\W*", lines[-1] if lines else "", re.IGNORECASE)
    return found[1] if found and found[1] in known else None


def words(text: str) -> list[str]:
    """Lower-case words of two letters or more, without LaTeX commands and the plural's s."""
    found = re.findall(r"[a-z]{2,}", re.sub(r"\\[a-z]+", " ", text.lower()))
    return [w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in found if w not in _STOP]


_STOP = frozenset(
    (
        "and",
        "the",
        "of",
        "or",
        "with",
        "to",
        "in",
        "an",
        "at",
        "by",
        "as",
        "is",
        "are",
        "be",
        "on",
        "for",
        "it",
        "its",
        "that",
        "this",
        "what",
        "which",
        "who",
        "if",
        "then",
        "from",
        "when",
        "such",
        "has",
        "have",
        "had",
        "each",
        "given",
        "up",
        "under",
        "over",
        "other",
        "several",
        "how",
        "many",
        "find",
        "let",
        "you",
        "your",
        "there",
        "was",
        "were",
    )
)
TITLE_WEIGHT = 3
"""A word of the title counts as this many of the description."""


def _unit(count: Counter[str], idf: Mapping[str, float]) -> dict[str, float]:
    """The words of `count` that `idf` knows, weighed by (1 + log count) * idf, as a vector of length 1."""
    weights = {word: (1 + math.log(times)) * idf[word] for word, times in count.items() if word in idf}
    length = math.hypot(*weights.values())
    return {word: weight / length for word, weight in weights.items()}


def fallback(questions: pl.DataFrame) -> pl.DataFrame:
    """A row of `DOMAIN_SCHEMA` per question, in their order, source `fallback`: the class whose words are nearest, by
    TF-IDF with idf log((1 + n) / (1 + df)) + 1.

    Args:
        questions: columns qid, question.
    """
    known = subjects()
    counts = [Counter(words(subject.title) * TITLE_WEIGHT + words(subject.about)) for subject in known]
    frequency = Counter(word for count in counts for word in count)
    idf = {word: math.log((1 + len(known)) / (1 + times)) + 1 for word, times in frequency.items()}
    classes = [_unit(count, idf) for count in counts]
    columns = {word: np.array([weights.get(word, 0.0) for weights in classes]) for word in idf}
    rows = []
    for qid, question in questions.select("qid", "question").iter_rows():
        weights = _unit(Counter(words(question)), idf)
        scores = sum((columns[word] * weight for word, weight in weights.items()), start=np.zeros(len(known)))
        best = int(scores.argmax())  # the first of equals: by code, so the class 00 where no word is known
        shared = ", ".join(word for word in weights if word in classes[best])
        detail = f"shared words: {shared}" if shared else "no word in common with any class"
        rows.append((qid, known[best].code, known[best].title, "fallback", round(float(scores[best]), 6), detail))
    return pl.DataFrame(rows, schema=dict(DOMAIN_SCHEMA), orient="row")


@dataclass(frozen=True)
class Agreement:
    """How far two labellings of the same questions agree.

    Attributes:
        rows: questions that both label, the first by a model.
        equal: of these, with the same class.
        kappa: Cohen's kappa; None where chance alone would agree always.
        confused: the most frequent pairs (first, second, count) that differ, at most ten.
    """

    rows: int
    equal: int
    kappa: float | None
    confused: tuple[tuple[str, str, int], ...]

    @property
    def share(self) -> float | None:
        """equal / rows; None without rows."""
        return self.equal / self.rows if self.rows else None


def agreement(model_labels: pl.DataFrame, fallback_labels: pl.DataFrame) -> Agreement:
    """Compares the labels that a model gave with the fallback's for the same questions.

    Args:
        model_labels: of `DOMAIN_SCHEMA`; rows whose source is not model are left out.
        fallback_labels: of `DOMAIN_SCHEMA`.
    """
    both = (
        model_labels.filter(pl.col("source") == "model")
        .select("qid", "code")
        .join(fallback_labels.select("qid", pl.col("code").alias("other")), on="qid", how="inner")
    )
    pairs = Counter(zip(both["code"].to_list(), both["other"].to_list(), strict=True))
    rows, equal = both.height, sum(count for (a, b), count in pairs.items() if a == b)
    left, right = Counter(both["code"].to_list()), Counter(both["other"].to_list())
    chance = sum(left[code] * right[code] for code in left) / rows**2 if rows else 1.0
    kappa = None if chance == 1.0 else (equal / rows - chance) / (1 - chance)
    differing = sorted(((count, a, b) for (a, b), count in pairs.items() if a != b), key=lambda t: (-t[0], t[1:]))
    return Agreement(rows, equal, kappa, tuple((a, b, count) for count, a, b in differing[:10]))
