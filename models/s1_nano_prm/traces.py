"""Traces of s1-nano and which of their steps are right: by rollouts (Math-Shepherd, arXiv 2312.08935) and exactly.

A step is a line of thinking; the last one is everything behind the last line, with the answer. Questions are of the
families' train side, or held out; steps end where `Branch.step(stop=("\\n",))` ends them.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from curate.families import FAMILIES, check, problems
from curate.families.steps import Verdict, verdicts
from engine import Engine, InputError, SamplingParams
from engine.rows_file import BadRow, read_rows
from engine.whole_file import write_whole

TEMPERATURE, BUDGET, ANSWER = 1.5, 128, 48
ROLLOUTS = 4


@dataclass(frozen=True)
class Trace:
    """One sample. `steps` has a value for each of `ends`: 1 right, 0 wrong, None where the line cannot be read."""

    family: str
    prompt: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    ends: tuple[int, ...]
    """length of the trace behind each step; the last is the answer's"""
    steps: tuple[int | None, ...]
    """exact verdicts on the lines; the last: whether the answer is right"""
    first_dead: int | None = None
    """by rollouts: the first step from which none of them reached a right answer; len(ends) - 1 where all lines are
    good; None: nobody asked"""

    @property
    def right(self) -> bool:
        """Whether the answer is."""
        return self.steps[-1] == 1

    @property
    def first_error(self) -> int | None:
        """The first line that is wrong; None: there is none."""
        return next((at for at, step in enumerate(self.steps[:-1]) if step == 0), None)


def questions(split: str, count: int, seed: int, families: Sequence[str] = tuple(FAMILIES)) -> list[tuple[str, str]]:
    """(family, prompt) of `count` questions, no two of them the same task."""
    if count < 1:
        raise InputError(f"{count} questions; give at least 1")
    found: dict[tuple[str, str], str] = {}
    for problem in problems(split, seed, tuple(families)):
        found.setdefault((problem.family, problem.key), problem.prompt)
        if len(found) == count:
            break
    return [(family, prompt) for (family, _), prompt in found.items()]


def sampling(seed: int, samples: int) -> SamplingParams:
    """How traces and rollouts are drawn: alike, or a rollout would say what another policy is worth."""
    return SamplingParams(
        temperature=TEMPERATURE, thinking_token_budget=BUDGET, max_tokens=BUDGET + ANSWER, n=samples, seed=seed
    )


def sample(engine: Engine, asked: Sequence[tuple[str, str]], samples: int, seed: int) -> list[Trace]:
    """`samples` traces of each question, with exact labels."""
    params = [sampling(seed + number, samples) for number in range(len(asked))]
    outputs = engine.generate([prompt for _, prompt in asked], params)
    return [
        _trace(engine, family, prompt, output.prompt_token_ids, one.token_ids, one.answer)
        for (family, prompt), output in zip(asked, outputs, strict=True)
        for one in output.outputs
    ]


def _trace(
    engine: Engine, family: str, prompt: str, prompt_ids: Sequence[int], ids: Sequence[int], answer: str
) -> Trace:
    tokenizer = engine.tokenizer
    mark = tokenizer.special_id("<|im_start|>")
    thought = next((at for at, token in enumerate(ids) if token == mark), len(ids))
    ends = [at + 1 for at in range(thought) if b"\n" in tokenizer.token_bytes(ids[at])]
    lines = [tokenizer.decode(ids[start:end]).strip("\n") for start, end in pairwise([0, *ends])]
    known = {Verdict.RIGHT: 1, Verdict.WRONG: 0, Verdict.UNKNOWN: None}
    judged = iter(verdicts(family, prompt, [line for line in lines if line]))
    steps = [known[next(judged)] if line else 1 for line in lines]  # the newline behind the opener says nothing
    return Trace(
        family,
        prompt,
        tuple(prompt_ids),
        tuple(ids),
        (*ends, len(ids)),
        (*steps, int(check(family, prompt, answer))),
    )


def roll_out(engine: Engine, traces: Sequence[Trace], seed: int) -> list[Trace]:
    """The traces with `first_dead`, found by halving: a step that no rollout survives is dead, and what follows it too.

    All traces are asked at once, some three times, with `ROLLOUTS` rollouts each.
    """
    low, high = [0] * len(traces), [len(trace.ends) - 1 for trace in traces]
    while open_ := [number for number in range(len(traces)) if low[number] < high[number]]:
        middle = {number: (low[number] + high[number]) // 2 for number in open_}
        prompts = [
            [*traces[number].prompt_ids, *traces[number].token_ids[: traces[number].ends[middle[number]]]]
            for number in open_
        ]
        outputs = engine.generate(prompts, [sampling(seed + number, ROLLOUTS) for number in open_])
        for number, output in zip(open_, outputs, strict=True):
            trace = traces[number]
            alive = any(check(trace.family, trace.prompt, one.answer) for one in output.outputs)
            low[number], high[number] = (middle[number] + 1, high[number]) if alive else (low[number], middle[number])
    return [replace(trace, first_dead=first) for trace, first in zip(traces, low, strict=True)]


def write(path: Path, traces: Iterable[Trace]) -> None:
    """One JSON line for each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(json.dumps(asdict(trace)) + "\n" for trace in traces))


def read(path: Path) -> Iterator[Trace]:
    """What `write` wrote. Raises InputError naming file and line."""
    for number, row in read_rows(path):
        if isinstance(row, BadRow) or set(row) != {field.name for field in fields(Trace)}:
            raise InputError(f"{path}, line {number} is no trace; make the traces again")
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in row.items()}
        yield Trace(**values)
