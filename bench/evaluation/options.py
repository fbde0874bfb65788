"""The flags of `bench.evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bench.evaluation.extraction import GraderName, Mode
from bench.evaluation.prompts import PromptName
from bench.evaluation.tasks import TaskName


@dataclass(frozen=True)
class RunOptions:
    """What to run, and where it goes."""

    grid: Annotated[Path | None, tyro.conf.Positional] = None
    """YAML file; without it the flags below make the grid."""
    task: TaskName = "s1_nano"
    questions: str | None = None
    """File of one's own questions, JSONL, JSON, CSV or Parquet, or hub:OWNER/NAME[/FILE], in place of a task."""
    question: str = "question"
    """Its column of the question."""
    answer: str | None = "answer"
    """Its column of the reference answer."""
    kind: str = "auto"
    """What decides that an answer is right: auto (by the reference), number, latex, choice, text, exact, or
    python:MODULE.FUNCTION."""
    options: str | None = None
    """Its column of a choice's options, a list; None: `options` or `choices`, where a row has one."""
    model: str | None = None
    """Checkpoint directory, hub id or GGUF file, or what the endpoint calls it; also lays itself over a grid's."""
    endpoint: str | None = None
    """OpenAI-compatible server that runs --model, up to and with /v1; OPENAI_API_KEY holds its key. Budgets and "Wait"s
    need this engine's server; without them (method `none`) any service will do."""
    adapter: str | None = None
    """A LoRA adapter's folder, whose changes the weights get while they are loaded."""
    count: int | None = None
    seed: int = 7
    """Which problems are drawn or chosen."""
    budgets: tuple[int, ...] | None = None
    """Thinking budgets to run without a "Wait"; None: the task's."""
    waits: tuple[int, ...] | None = None
    """Numbers of "Wait"s to run; None: the task's."""
    harness_arguments: tuple[str, ...] = ()
    """Conditions in the original harness's words, "max_tokens_thinking=auto,thinking_n_ignore=2,..."."""
    max_tokens: int | None = None
    """Most tokens of a response; None: the task's."""
    answer_tokens: int | None = None
    """Tokens of these kept for the answer; None: the task's."""
    prompt: PromptName = "s1"
    """How a question is asked: `s1` is the question alone."""
    thinking_format: str | None = None
    """Where `auto` finds none in the checkpoint, or the adapter has another."""
    device: str | None = None
    dtype: str | None = None
    max_num_seqs: int | None = None
    out: Path | None = None
    """Folder of the run, to go on in or to read later; None: one below `runs/`, the same for the same command."""
    independent: bool = False
    """Run every condition by itself instead of forking one trace per problem."""
    workers: int = 1
    """Grading processes."""
    results: Path | None = None
    """JSONL file of benchmark records that gets one line per condition."""
    samples: Path | None = None
    """JSONL file that gets every question, response and verdict in the clear (not for private tasks)."""
    figure: tuple[Path, ...] = ()
    """PNG files that get a figure of the first task: accuracy against average thinking tokens, or against what searches
    cost where there are any."""
    write: tuple[Path, ...] = ()
    """Markdown files whose part between the evaluation's marks gets the summary."""


@dataclass(frozen=True)
class FolderOptions:
    """A run that is there, and how it is graded."""

    folder: Annotated[Path, tyro.conf.Positional]
    grader: GraderName = "s1-engine"
    """`s1-grader`: as the original graded, for its published columns only."""
    mode: Mode = "answer"
    """Where answers are looked for: `strict`, `answer`, or `lenient` (the reasoning too)."""
    workers: int = 1
    """Grading processes."""
    checker: str | None = None
    """The function, python:MODULE.FUNCTION, that the run's task names: a folder's code is not run unless it is named
    here too."""
    judge_url: str | None = None
    """OpenAI-compatible server that judges words unlike the reference, blind; None: no judge."""
    judge_model: str | None = None
    write: tuple[Path, ...] = ()
    """Markdown files whose part between the evaluation's marks gets the report's summary."""


@dataclass(frozen=True)
class GradeOptions(FolderOptions):
    """A run to grade, again or for the first time; verdicts that change are listed."""

    explain: str | None = None
    """Id of a problem: write nothing, and tell of each of its samples which rule decided and what was read as what."""


@dataclass(frozen=True)
class CompareOptions:
    """Two graded runs, condition by condition, on the problems that both have."""

    folder: Annotated[Path, tyro.conf.Positional]
    other: Annotated[Path, tyro.conf.Positional]
