"""The work of a run as generators: each yields requests, gets their samples, and writes rows.

A job is one problem and sample index under one condition, or under all conditions that share a trace. Jobs know
nothing of threads; `bench.evaluation.run` keeps many of them going.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.evaluation import reuse
from bench.evaluation.engine_backend import EngineBackend
from bench.evaluation.log import Key, Log
from bench.evaluation.methods import Condition
from bench.evaluation.prompts import PromptName, user_message
from bench.evaluation.samples import Backend, Request, Sample, from_values, prompt_hash, sample_seed
from bench.evaluation.tasks import LETTERS, Problem, Task
from curate.grading.letters import choose

Job = Generator[Sequence[Request], Sequence[Sample], int]
"""Returns how many samples of conditions it has written."""


@dataclass(frozen=True)
class Setting:
    """What all jobs of a run have in common."""

    log: Log
    backend: Backend
    prompt: PromptName
    system: str | None
    seed: int


@dataclass(frozen=True)
class Place:
    """One problem and sample index."""

    task: Task
    problem: Problem
    index: int

    def key(self, condition: str) -> Key:
        return Key(self.task.name, self.problem.id, condition, self.index)


_Member = tuple[Condition, Request, reuse.Cut]
"""A condition of a family, and where it leaves the trace."""


def jobs(
    setting: Setting,
    tasks: Sequence[Task],
    conditions: Sequence[Condition],
    families: Sequence[reuse.Family],
) -> Iterator[Job]:
    """What is not in the log yet: problems in turn, sample after sample. `conditions` are those without a family."""
    for task in tasks:
        most = max((c.samples for c in (*conditions, *(c for f in families for c in f.conditions))), default=0)
        for index in range(most):
            for problem in task.problems:
                place = Place(task, problem, index)
                for family in families:
                    wanted = [c for c in family.conditions if index < c.samples]
                    if any(place.key(c.label) not in setting.log for c in wanted):
                        yield shared(setting, place, family)
                for condition in conditions:
                    if index < condition.samples and place.key(condition.label) not in setting.log:
                        yield single(setting, place, condition)


def single(setting: Setting, place: Place, condition: Condition) -> Job:
    """One sample by itself. Under rejection, draws until one thinks within the limit: the row is that draw, or the
    last one, and counts them all."""
    generated = 0
    for draw in range(condition.tries or 1):
        request = request_of(setting, place, condition, condition.params, draw)
        (sample,) = yield [request]
        generated += sample.completion_tokens
        if sample.left_thinking:
            break
    source = "rejection" if condition.tries else "independent"
    setting.log.write([row_of(place, condition.label, request, sample, source, generated, tries=draw + 1)])
    return 1


def shared(setting: Setting, place: Place, family: reuse.Family) -> Job:
    """One trace, then what each condition of the family makes of it."""
    backend = setting.backend
    assert isinstance(backend, EngineBackend)  # only the engine continues token ids
    start = request_of(setting, place, family.conditions[0], family.params)
    private = place.task.private
    rows = []
    if place.key(family.label) in setting.log and not private:
        trace = from_values(setting.log.row(place.key(family.label)))
    else:
        (trace,) = yield [start]
        rows.append(row_of(place, family.label, start, trace, "trace", trace.completion_tokens))
        if not private:  # a private trace cannot be read back, so it is written with what came of it
            setting.log.write(rows)
    if trace.error is not None or trace.stop_reason not in reuse.ENDS:
        # Nothing can be read off a trace that ended by accident: each condition by itself, as without reuse.
        alone = [replace(start, params=_seeded(setting, place, c.params)) for c in family.conditions]
        samples = yield alone
        rows += [
            row_of(place, condition.label, request, sample, "independent", sample.completion_tokens)
            for condition, request, sample in zip(family.conditions, alone, samples, strict=True)
        ]
        return _write(setting, place, family, rows)
    extension = len(backend.prepare(start).plan.extension)
    forks: dict[Any, list[_Member]] = {}
    for condition in family.conditions:
        request = replace(start, params=_seeded(setting, place, condition.params))
        own = backend.prepare(request).plan
        cut = reuse.cut_of(trace, own, extension)
        if request.params == start.params and cut.at == trace.thinking_tokens:
            # Cut by its own budget, the trace is this condition's whole response.
            cut = replace(cut, end="whole")
        reason = (own.budget <= reuse.limit_of(own), own.budget_end) if cut.end == "limit" else ()
        if cut.end == "whole" and trace.completion_tokens <= (request.params.max_tokens or 0):
            rows.append(row_of(place, condition.label, request, trace, "trace", 0, cut))
        else:
            forks.setdefault((cut.at, cut.end, reason), []).append((condition, request, cut))
    groups = list(forks.values())
    while groups:
        longest = [max(members, key=lambda member: member[1].params.max_tokens or 0) for members in groups]
        answers = yield [reuse.fork(start, trace, cut, request.params) for _, request, cut in longest]
        short: list[list[_Member]] = []
        for members, rest in zip(groups, answers, strict=True):
            paid = rest.completion_tokens
            for condition, request, cut in members:
                sample = reuse.join(trace, cut, rest, backend.engine.tokenizer)
                if sample.completion_tokens > (request.params.max_tokens or 0):
                    short.append([(condition, request, cut)])  # its room ends before this answer does: by itself
                    continue
                rows.append(row_of(place, condition.label, request, sample, "trace", paid, cut))
                paid = 0  # what members share is counted once
        groups = short
    return _write(setting, place, family, rows)


def _write(setting: Setting, place: Place, family: reuse.Family, rows: Sequence[tuple[Key, dict[str, Any]]]) -> int:
    """Write what is not in the log yet; returns how many samples of conditions that is."""
    trace = place.key(family.label)
    wanted = {trace, *(place.key(c.label) for c in family.conditions if place.index < c.samples)}
    new = [row for row in rows if row[0] in wanted and row[0] not in setting.log]
    setting.log.write(new)
    return sum(key != trace for key, _ in new)


def request_of(setting: Setting, place: Place, condition: Condition, params: Any, draw: int = 0) -> Request:
    """The request for one sample of a condition, with its seed. Raises InputError where it cannot run."""
    said = {"system": setting.system, "user": user_message(place.problem, setting.prompt, condition.suffix)}
    messages = [{"role": role, "content": text} for role, text in said.items() if text is not None]
    return setting.backend.prompt(messages, condition.opener, _seeded(setting, place, params, draw))


def _seeded(setting: Setting, place: Place, params: Any, draw: int = 0) -> Any:
    """Further draws of a rejected sample have seeds of their own; the first has the one of every other condition."""
    name = place.task.name if draw == 0 else f"{place.task.name} draw {draw}"
    return replace(params, seed=sample_seed(setting.seed, name, place.problem.id, place.index))


def row_of(
    place: Place,
    condition: str,
    request: Request,
    sample: Sample,
    source: str,
    generated: int,
    cut: reuse.Cut | None = None,
    tries: int = 1,
) -> tuple[Key, dict[str, Any]]:
    """A log row. `generated`: tokens that were generated for it and stand in no other row."""
    problem, values = place.problem, {**asdict(sample), "choice": None}
    if place.task.private:
        # Token ids and text would tell the question; the letter is all that grading needs.
        found, _ = choose(sample.answer, dict(zip(LETTERS, problem.options, strict=False)))
        choice = {"text": found.text, "rule": f"answer.{found.rule}" if found.text else "no_answer"}
        values |= {"token_ids": [], "forced": [], "reasoning": "", "answer": "", "choice": choice}
    return place.key(condition), {
        "seed": request.params.seed,
        "prompt_hash": prompt_hash(request),
        "permutation": list(problem.permutation),
        "source": source,
        "cut": None if cut is None else {"at": cut.at, "end": cut.end},
        "generated": generated,
        "tries": tries,
        "left_thinking": sample.left_thinking,
        **values,
    }
