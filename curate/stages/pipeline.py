"""The stages of a run, from questions to a training file, and what each reads. `curate.stages.work` is what they do."""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from curate.config import Asked, Config
from curate.grading.checker import PREFIX, checker
from curate.models.opened import check_ready, checkpoint_files, deciding
from curate.sources.own import Own
from curate.sources.procedural import family_files
from curate.stages.stage import Stage
from curate.table_io import files
from engine.errors import InputError
from engine.model.embedded import folder_of

ORDER = (
    "collect",
    "dedupe",
    "decontaminate",
    "trace",
    "quality",
    "attempt",
    "grade",
    "difficulty",
    "domain",
    "select",
    "format",
)


def stages(config: Config) -> tuple[Stage, ...]:
    """The stages that `config` asks for, in order; one that ends early has no `trace`, `attempt` or `format`."""
    before = ("collect", "dedupe", "decontaminate")
    traced = before if config.trace is None else (*before, "trace")
    every = (
        Stage(
            "collect",
            2,
            (),
            lambda c: c.collect,
            lambda c: [path for source in c.collect.sources for path in source.local_files()],
        ),
        Stage("dedupe", 2, ("collect",), lambda c: c.dedupe),
        Stage("decontaminate", 3, ("collect", "dedupe"), lambda c: c.decontaminate, eval_files),
        _asking("trace", 1, before, lambda c: [c.trace], lambda c: None),
        Stage("quality", 2, traced, lambda c: c.quality),
        _asking(
            "attempt",
            1,
            (*before, "quality"),
            lambda c: c.attempt.models if c.attempt else (),
            lambda c: c.attempt.samples if c.attempt else None,
        ),
        _asking(
            "grade",
            2,
            (*traced, "quality", "attempt"),
            lambda c: [c.grade.judge],
            lambda c: [c.grade.time_limit_s, c.grade.memory_limit_mb],  # not the processes, which decide no grade
            checkers,
        ),
        Stage("difficulty", 1, (*before, "quality", "grade"), lambda c: c.difficulty),
        _asking(
            "domain",
            2,
            (*before, "quality", "difficulty"),
            lambda c: [Asked(model=c.domain.model, sampling=c.domain.sampling) if c.domain.model else None],
            lambda c: c.select.pool,
        ),
        Stage(
            "select",
            2,
            (*traced, "quality", "grade", "difficulty", "domain"),
            lambda c: [c.select, c.seed],
            lambda c: tokenizer_files(c.select.tokenizer),
        ),
        Stage(
            "format",
            2,
            ("collect", "trace", "domain", "select"),
            lambda c: c.format,
            lambda c: tokenizer_files(c.format.tokenizer if c.format else None),
        ),
    )
    needed = dict.fromkeys(("attempt", "grade", "difficulty", "domain", "select"), config.attempt)
    sections = {"trace": config.trace, **needed, "format": config.format}
    return tuple(stage for stage in every if sections.get(stage.name, config) is not None)


def _asking(
    name: str,
    version: int,
    inputs: tuple[str, ...],
    asked: Callable[[Config], Sequence[Asked | None]],
    section: Callable[[Config], Any],
    functions: Callable[[Config], Sequence[str]] = lambda config: (),
) -> Stage:
    """A stage that asks models; `section` is what else its result depends on, `functions` those of one's own that it
    calls. With other weights, or another module, it runs again."""

    def models(config: Config) -> list[Asked]:
        return [one for one in asked(config) if one is not None]

    def ready(config: Config) -> None:
        for one in models(config):
            check_ready(one.model)
        for function in functions(config):
            checker(function)

    return Stage(
        name,
        version,
        inputs,
        lambda config: [[[deciding(one.model), one.sampling] for one in models(config)], section(config)],
        lambda config: [
            *(path for one in models(config) for path in checkpoint_files(one.model)),
            *filter(None, map(module_file, functions(config))),
        ],
        ready,
    )


def checkers(config: Config) -> list[str]:
    """`module.function` of those that judge answers."""
    kinds = [source.kind for source in config.collect.sources if isinstance(source, Own)]
    return list(dict.fromkeys(kind.removeprefix(PREFIX) for kind in kinds if kind.startswith(PREFIX)))


def module_file(function: str) -> Path | None:
    """The file of the module of `module.function`; None where there is none. Only packages around it are imported."""
    try:
        found = importlib.util.find_spec(function.rpartition(".")[0])
    except Exception:  # whatever a package does while it is imported; `checker` says it
        return None
    return Path(found.origin) if found and found.origin and Path(found.origin).is_file() else None


def eval_files(config: Config) -> list[Path]:
    """The files that evaluation questions are read from."""
    sets = config.decontaminate.against
    found = files(tuple(each.path for each in sets if each.path is not None))
    return found + family_files() if any(each.heldout is not None for each in sets) else found


def tokenizer_files(folder: str | None) -> list[Path]:
    """What of a tokenizer's folder decides its tokens. Raises InputError where it holds none."""
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    if folder is None:
        return []
    found = [path for name in names if (path := folder_of(folder) / name).is_file()]
    if folder_of(folder) / names[0] not in found:
        raise InputError(f"{folder}: no tokenizer.json; name the folder of a model's tokenizer")
    return found
