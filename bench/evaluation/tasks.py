"""Tasks: the problems of an evaluation, each with what decides that an answer to it is right."""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

import msgspec
from msgspec import Meta

from bench.evaluation import files
from curate.columns import Columns, is_unicode
from curate.families import FAMILIES
from curate.families.distinct import RanDry, draw_distinct
from curate.grading.grade import AnswerKind
from curate.grading.letters import LETTERS
from curate.row import RowError
from engine import InputError
from engine.errors import shown
from engine.struct_error import choices

TaskName = Literal["s1_nano", "gsm8k", "aqua", "aime24", "aime25", "math500", "gpqa_diamond"]


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A task as a grid names it: one that is known, or questions of one's own under a name of one's own."""

    name: str
    """One of s1_nano, gsm8k, aqua, aime24, aime25, math500, gpqa_diamond; any other name, with `path`, is one's own."""
    path: str | None = None
    """A file, or `hub:OWNER/NAME[/FILE]`; GSM8K and AQuA are found in the data folder."""
    revision: str | None = None
    """Of the hub's data set."""
    sha256: str | None = None
    """Of the file, where it is not one of the known ones."""
    count: Annotated[int, Meta(ge=1)] | None = None
    """Problems to use, chosen by `seed`; None: all (s1_nano: 1,000)."""
    seed: int = 0
    """Which problems are chosen; of s1_nano, which are drawn."""
    families: tuple[str, ...] = ()
    """Of s1_nano: the families to draw from; empty: all."""
    option_seed: int = 0
    """Of gpqa_diamond: which order the options are shuffled into."""
    question: str = "question"
    """Of one's own questions: the column of the question."""
    answer: str | None = "answer"
    """The column of the reference answer, null: there is none, and a function judges. Of a whole solution what is
    boxed, or follows `####`, counts."""
    kind: str = "auto"
    """What decides that an answer is right: auto (by the reference), number, latex, choice, text, exact, or
    python:MODULE.FUNCTION."""
    options: str | None = None
    """The column of a choice's options, a list; None: `options` or `choices`, where a row has one."""
    group: str | None = None
    """The column of a finer name, such as a subject, by which the report tells accuracy too."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.families if name not in FAMILIES]
        if unknown or (self.families and self.name != "s1_nano"):
            what = f"family {unknown[0]!r} is unknown" if unknown else "families belong to s1_nano"
            raise InputError(f"task {self.name}: {what}; known families: {', '.join(FAMILIES)}")
        if self.name == "s1_nano" and (self.path is not None or self.sha256 is not None):
            raise InputError("task s1_nano draws its problems; leave path and sha256 out")
        known = get_args(TaskName)
        given = [name for name, default in _COLUMNS.items() if getattr(self, name) != default]
        if self.name in known and given:
            raise InputError(
                f"task {self.name} has columns of its own, and {given[0]} is given; to read other columns call the "
                "task by another name"
            )
        if self.name not in known and self.path is None:
            what = f"task {shown(self.name)} is unknown{choices(self.name, known)}"
            raise InputError(f"{what}; for questions of your own give path: FILE")
        if self.name not in known and not re.fullmatch(r"(?!\.+$)[\w.-]{1,80}", self.name):
            raise InputError(f"task {shown(self.name)}: a name has letters, digits, dots, dashes and underscores only")
        Columns(kind=self.kind)  # an unknown kind is refused with the grid

    @property
    def columns(self) -> Columns:
        """Of one's own questions."""
        return Columns(self.question, self.answer, self.kind, self.options)


_COLUMNS = {"question": "question", "answer": "answer", "kind": "auto", "options": None, "group": None}
"""Fields that one's own questions have, and their defaults."""


@dataclass(frozen=True)
class Problem:
    """One question. `group` is a finer name inside the task: a family, a subject."""

    id: str
    group: str
    question: str
    reference: str | None
    kind: AnswerKind
    options: tuple[str, ...] = ()
    """Texts of the options in the order shown."""
    permutation: tuple[int, ...] = ()
    """For each option shown, its place in the file (0: the right one); empty where the file's order is kept."""
    family: str = ""
    """Its family, or the function that judges answers, `module.function`."""


@dataclass(frozen=True)
class Task:
    """Loaded problems. `private`: neither question nor response may stand in a log. `note`: what a reader must know."""

    name: str
    problems: tuple[Problem, ...]
    sha256: str
    private: bool = False
    note: str = ""


def load(spec: TaskSpec) -> Task:
    """The problems of `spec`. Raises InputError naming task and file where something is missing or another."""
    if spec.name == "s1_nano":
        return _families(spec)
    if spec.name not in get_args(TaskName):
        return _own(spec)
    # File in the data folder, rows, beginnings of SHA-256 of public copies: AIME24 as in Qwen2.5-Math, LIMO, evalchemy
    # and rllm (30 equal answers; the first two draw figures only where a problem needs them, as s1's
    # `aime24_nofigures`); AIME25 as in evalchemy; MATH500 as in PRM800K's test split, and LIMO's copy.
    layouts = {
        "gsm8k": (
            "gsm8k/test.jsonl",
            1319,
            ("3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14", "9f098df7"),
            _gsm8k,
        ),
        "aqua": (
            "agieval/aqua-rat.jsonl",
            254,
            ("cff42e946e6082dacb27285dae19cb4be98408ab760fe43c6c462e543be50572",),
            _aqua,
        ),
        "aime24": (None, 30, ("af2b8bd2aa911b63", "a0f7eb99", "2dfe4f13", "03fd341f"), _aime),
        "aime25": (None, 30, ("3505b87e",), _aime),
        "math500": (None, 500, ("35dc41080a368085", "a2392729"), _math500),
        "gpqa_diamond": (None, 198, (), _gpqa),
    }
    default, rows, known, parse = layouts[spec.name]
    path = files.locate(spec.name, spec.path, spec.revision, default)
    sha256, read = files.read(spec.name, path, rows, known, spec.sha256)
    found = [parse(spec, row, sha256) for row in read]
    return Task(spec.name, tuple(_choose(spec, found, path)), sha256, private=spec.name == "gpqa_diamond")


def _own(spec: TaskSpec) -> Task:
    """Questions of one's own, called by their column `id` where they have one."""
    path = files.locate(spec.name, spec.path, spec.revision, None)
    sha256, read = files.read(spec.name, path, None, None, spec.sha256)
    found = []
    for row in read:
        try:
            asked = spec.columns.read(row.values)
        except RowError as error:
            raise InputError(f"{row.place}: {error}") from error
        if asked.answer is None and asked.kind is not AnswerKind.PYTHON:
            raise InputError(
                f"{row.place}: column {spec.columns.answer!r} is empty; give an answer, or leave the row out"
            )
        if spec.group is not None and spec.group not in row.values:
            raise InputError(f"{row.place}: column {spec.group!r} is missing; the row has {', '.join(row.values)}")
        name, group = row.values.get("id"), "" if spec.group is None else str(row.values[spec.group])
        name = f"{spec.name}-{row.number}" if name in (None, "") else str(name)
        if not is_unicode(name + group):
            raise InputError(f"{row.place}: its id or group holds a lone surrogate, which is not valid Unicode")
        found.append(Problem(name, group, asked.text, asked.answer, asked.kind, asked.options, family=asked.checker))
    return Task(spec.name, tuple(_choose(spec, found, path)), sha256)


def _choose(spec: TaskSpec, found: Sequence[Problem], path: Path) -> list[Problem]:
    """`count` problems by a hash of seed and id, in the file's order: a larger count holds the smaller one's. Raises
    InputError where two have one id, or there are fewer."""
    ids = [problem.id for problem in found]
    twice = next((name for name, n in Counter(ids).items() if n > 1), None)
    if twice is not None:
        raise InputError(f"task {spec.name}: {path} has two rows of one id, {shown(twice)}; repair the file")
    if spec.count is not None and spec.count > len(found):
        raise InputError(f"task {spec.name}: count is {spec.count} and there are {len(found)} problems; lower it")
    ranked = sorted(found, key=lambda p: hashlib.sha256(f"{spec.seed}|{p.id}".encode()).digest())
    chosen = {problem.id for problem in ranked[: spec.count]}
    return [problem for problem in found if problem.id in chosen]


def _families(spec: TaskSpec) -> Task:
    """Distinct held-out questions: a repeat would count as a problem more in every interval."""
    try:
        drawn = draw_distinct("heldout", spec.seed, spec.count or 1000, spec.families or tuple(FAMILIES))
    except RanDry as error:
        raise InputError(f"task {spec.name}: {error}") from error
    found = tuple(
        Problem(f"heldout-{spec.seed}-{i}", p.family, p.prompt, None, AnswerKind.FAMILY, family=p.family)
        for i, p in enumerate(drawn.problems)
    )
    digest = hashlib.sha256("\n".join(problem.question for problem in found).encode()).hexdigest()
    return Task(spec.name, found, digest, note=drawn.note)


def _gsm8k(spec: TaskSpec, row: files.Row, sha256: str) -> Problem:
    _, mark, reference = row.text("answer").rpartition("####")
    if not mark:
        raise InputError(f"{row.place}: the answer has no ####")
    return Problem(f"gsm8k-{row.number}", "", row.text("question"), reference.strip(), AnswerKind.NUMBER)


def _aqua(spec: TaskSpec, row: files.Row, sha256: str) -> Problem:
    label, given = row.text("label").upper(), row.values.get("options")
    if not isinstance(given, list) or label not in LETTERS[: len(given)]:
        raise InputError(f"{row.place}: label {label!r} is none of its options")
    options = tuple(text.removeprefix(f"({letter})").strip() for letter, text in zip(LETTERS, given, strict=False))
    return Problem(f"aqua-{row.number}", "", row.text("question"), label, AnswerKind.CHOICE, options)


def _aime(spec: TaskSpec, row: files.Row, sha256: str) -> Problem:
    reference = row.text("answer", "expected_answer")
    if not re.fullmatch("0*[0-9]{1,3}", reference):
        raise InputError(f"{row.place}: answer {reference!r} is no integer of 0 to 999")
    question = row.text("problem", "question")
    return Problem(f"{spec.name}-{row.number}", "", question, str(int(reference)), AnswerKind.NUMBER)


def _math500(spec: TaskSpec, row: files.Row, sha256: str) -> Problem:
    name, group = row.values.get("unique_id", f"math500-{row.number}"), row.values.get("subject", "")
    return Problem(str(name), str(group), row.text("problem"), row.text("answer"), AnswerKind.LATEX)


def _gpqa(spec: TaskSpec, row: files.Row, sha256: str) -> Problem:
    """The options of each question in an order of its own, drawn from checksum, row and `option_seed`."""
    answers = [row.text(name) for name in ("Correct Answer", *(f"Incorrect Answer {i}" for i in (1, 2, 3)))]
    order = list(range(4))
    random.Random(f"{sha256}|{row.number}|{spec.option_seed}").shuffle(order)
    options, right = tuple(answers[at] for at in order), LETTERS[order.index(0)]
    group = str(row.values.get("High-level domain", ""))
    return Problem(f"gpqa-{row.number}", group, row.text("Question"), right, AnswerKind.CHOICE, options, tuple(order))
