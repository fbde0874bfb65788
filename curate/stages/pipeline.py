"""The stages of a run, from questions to a training file, and what each reads. `curate.stages.work` is what they do."""

from collections.abc import Sequence
from pathlib import Path

from curate.config import Asked, Config, Domain
from curate.models.opened import checkpoint_files
from curate.sources.procedural import family_files
from curate.stages.stage import Stage
from curate.table_io import files
from engine.errors import InputError

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
            1,
            (),
            lambda c: c.collect,
            lambda c: [path for source in c.collect.sources for path in source.local_files()],
        ),
        Stage("dedupe", 2, ("collect",), lambda c: c.dedupe),
        Stage("decontaminate", 2, ("collect", "dedupe"), lambda c: c.decontaminate, eval_files),
        Stage("trace", 1, before, lambda c: c.trace, lambda c: model_files([c.trace])),
        Stage("quality", 1, traced, lambda c: c.quality),
        Stage(
            "attempt",
            1,
            (*before, "quality"),
            lambda c: c.attempt,
            lambda c: model_files(c.attempt.models if c.attempt else ()),
        ),
        Stage(
            "grade",
            2,
            (*traced, "quality", "attempt"),
            lambda c: c.grade,
            lambda c: model_files([c.grade.judge]),
        ),
        Stage("difficulty", 1, (*before, "quality", "grade"), lambda c: c.difficulty),
        Stage(
            "domain",
            2,
            (*before, "quality", "difficulty"),
            lambda c: [c.domain, c.select.pool],
            lambda c: model_files([c.domain]),
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


def eval_files(config: Config) -> list[Path]:
    """The files that evaluation questions are read from."""
    sets = config.decontaminate.against
    found = files(tuple(each.path for each in sets if each.path is not None))
    return found + family_files() if any(each.heldout is not None for each in sets) else found


def tokenizer_files(folder: str | None) -> list[Path]:
    """What of a tokenizer's folder decides its tokens. Raises InputError where it holds none."""
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    found = [] if folder is None else [path for name in names if (path := Path(folder) / name).is_file()]
    if folder is not None and Path(folder) / names[0] not in found:
        raise InputError(f"{folder}: no tokenizer.json; name the folder of a model's tokenizer")
    return found


def model_files(asked: Sequence[Asked | Domain | None]) -> list[Path]:
    """Checkpoints of models that run in this process, and their adapters: with other weights a stage runs again."""
    models = [one.model for one in asked if one is not None and one.model is not None]
    return [path for model in models for path in checkpoint_files(model)]
