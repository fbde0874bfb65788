"""Attempts at questions by a model, and their grades. A trace is the teacher's one attempt."""

from collections.abc import Mapping

import polars as pl

from curate.grading.grade import AnswerKind, Grade, Grader, Item
from curate.models.asking import Answer, Ask, Model, Sampling, clean
from curate.models.prompt import Prompt
from curate.progress import Progress, no_progress

ATTEMPT_SCHEMA: Mapping[str, type[pl.DataType]] = {
    "key": pl.String,
    "qid": pl.String,
    "sample": pl.Int64,
    "model": pl.String,
    "prompt_version": pl.String,
    "sampling": pl.String,
    "thinking": pl.String,
    "attempt": pl.String,
    "finish_reason": pl.String,
    "prompt_tokens": pl.Int64,
    "thinking_tokens": pl.Int64,
    "completion_tokens": pl.Int64,
    "error": pl.String,
    "error_detail": pl.String,
}
"""An attempt or trace; `thinking` and `attempt` are null where `error` is not. `key` is the store's."""

GRADE_SCHEMA: Mapping[str, type[pl.DataType]] = {
    "key": pl.String,
    "qid": pl.String,
    "model": pl.String,
    "sample": pl.Int64,
    "verdict": pl.String,
    "grader": pl.String,
    "extracted": pl.String,
    "reason": pl.String,
}
"""A grade; `verdict` is yes, no or ungradable, `grader` the rule that decided, `key` the attempt's."""

GRADING_BATCH = 2000
"""Attempts graded between two calls of progress."""

KINDS = {kind: AnswerKind(kind) for kind in ("number", "latex", "choice", "text", "exact", "family", "python")}
"""Grading by a question's `answer_type`; "code" and "none" have no rule and are ungradable."""


def attempt(
    questions: pl.DataFrame,
    model: Model,
    sampling: Sampling,
    samples: int = 1,
    prompt: Prompt | None = None,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """`samples` rows of `ATTEMPT_SCHEMA` per question, in their order; calls that failed are rows with an error.

    Args:
        questions: columns qid, question.
        prompt: with the field question; None: the bare question.
        progress: called with the number of rows that came in since the last call.
    """
    prompt = prompt or Prompt.load("question")
    asks = [
        Ask(f"{qid} {sample}", prompt.messages(question=question), sampling, prompt.version, sample)
        for qid, question in questions.select("qid", "question").iter_rows()
        for sample in range(samples)
    ]
    answers: dict[str, Answer] = {}
    for answer in model.ask(asks):
        answers[answer.id] = answer
        progress(1)
    return pl.DataFrame(
        [attempt_row(ask, answers[ask.id], model.name) for ask in asks], schema=dict(ATTEMPT_SCHEMA), orient="row"
    )


def attempt_row(ask: Ask, answer: Answer, model: str) -> tuple[object, ...]:
    """A row of `ATTEMPT_SCHEMA`."""
    failed = answer.error is not None
    return (
        answer.key,
        ask.id.rpartition(" ")[0],
        ask.sample,
        model,
        ask.prompt_version,
        ask.sampling.canonical,
        None if failed else answer.reasoning,
        None if failed else answer.text,
        answer.finish_reason,
        answer.prompt_tokens,
        answer.reasoning_tokens,
        answer.completion_tokens,
        answer.error,
        answer.detail if failed else None,
    )


def grade_attempts(
    attempts: pl.DataFrame, questions: pl.DataFrame, grader: Grader, progress: Progress = no_progress
) -> pl.DataFrame:
    """A row of `GRADE_SCHEMA` for each attempt, in their order.

    Args:
        attempts: of `ATTEMPT_SCHEMA`; those with an error are ungradable.
        questions: columns qid, question, answer, answer_type and, where a type is "family", family.

    Raises:
        ValueError: an attempt at a question that is not among `questions`, or an answer_type that is not known.
    """
    if "family" not in questions.columns:
        questions = questions.with_columns(pl.lit(None, pl.String).alias("family"))
    known = {row["qid"]: row for row in questions.iter_rows(named=True)}
    rows: list[tuple[object, ...]] = []
    for batch in attempts.iter_slices(GRADING_BATCH):
        found = list(batch.iter_rows(named=True))
        items = [_item(row, known) for row in found]
        grades = iter(grader.grade([item for item in items if isinstance(item, Item)]))
        for row, item in zip(found, items, strict=True):
            grade = Grade(None, "ungradable", None, item) if isinstance(item, str) else next(grades)
            rows.append(
                (
                    *(row[column] for column in ("key", "qid", "model", "sample")),
                    {True: "yes", False: "no", None: "ungradable"}[grade.correct],
                    grade.rule,
                    grade.extracted,
                    clean(grade.detail),
                )
            )
        progress(len(found))
    return pl.DataFrame(rows, schema=dict(GRADE_SCHEMA), orient="row")


def _item(row: dict, known: dict[str, dict]) -> Item | str:
    """The item of an attempt, or the reason why it has none."""
    question = known.get(row["qid"])
    if question is None:
        raise ValueError(f"an attempt at question {row['qid']!r}, which is not among the questions; give its table too")
    kind = question["answer_type"]
    if row["error"] is not None:
        return f"no attempt: {row['error']}"
    if kind in ("code", "none"):
        return f"no rule for answers of type {kind!r}"
    if kind not in KINDS:
        raise ValueError(f"answer_type of question {row['qid']!r} is {kind!r}; known: {', '.join(KINDS)}, code, none")
    return Item(row["attempt"], question["answer"], KINDS[kind], question["question"], question["family"] or "")
