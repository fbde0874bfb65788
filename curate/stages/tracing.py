"""Reasoning traces: every question put to the teacher once."""

from __future__ import annotations

import polars as pl

from curate.models.asking import Model, Sampling
from curate.models.prompt import Prompt
from curate.progress import Progress, no_progress
from curate.stages.attempts import attempt


def trace(
    questions: pl.DataFrame,
    model: Model,
    sampling: Sampling,
    prompt: Prompt | None = None,
    progress: Progress = no_progress,
) -> pl.DataFrame:
    """One row of `ATTEMPT_SCHEMA` per question, in their order; calls that failed are rows with an error.

    Args:
        questions: columns qid, question.
        prompt: with the field question; None: the bare question, as s1 asked.
        progress: called with the number of questions that came in since the last call.
    """
    return attempt(questions, model, sampling, samples=1, prompt=prompt, progress=progress)
