"""The card of a data set that a curation run has made: sources, licences, stages, models, what it was held against."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from curate.config import Asked, Config
from curate.models.opened import ENGINE, name_of
from curate.records import counts_of
from engine import __version__
from engine.commit import commit
from engine.errors import InputError
from engine.hub_card import card, licence_fields

FILE = "data/train-00000-of-00001.parquet"
"""Where the rows are in the folder."""
Manifests = dict[str, Mapping[str, Any]]
"""What each stage wrote down, in their order."""
_TEMPLATE = Path(__file__).with_name("data_card.md.jinja")
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


@dataclass(frozen=True)
class Exported:
    """`rows` [s1K's columns, id, source, domain, licence, version, correct] of a run, in the order of the selection;
    how many of each private source were left out, and how many because their trace or answer is empty."""

    rows: pl.DataFrame
    private: dict[str, int]
    empty: int


def data_card(config: Config, manifests: Manifests, found: Exported, title: str) -> str:
    """The card: where the rows are from, under which licences, and how they were made."""
    counts = {name: manifest["counts"] for name, manifest in manifests.items()}
    rows = found.rows
    licences = [licence_fields(licence) for licence in counts_of(rows, "licence")]
    ids = list(dict.fromkeys(fields["license"] for fields in licences))
    others = [fields["license_name"] for fields in licences if "license_name" in fields]
    head = {
        "license": ids[0] if len(ids) == 1 else ids,
        "license_name": others[0] if len(others) == 1 else None,
        "pretty_name": title,
        "task_categories": ["text-generation"],
        "size_categories": [next((size for most, size in _SIZES if rows.height < most), "n>1M")],
        "tags": ["s1-engine", "reasoning"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": FILE}]}],
    }
    sources = rows.group_by("source", "licence", "version", maintain_order=True).len()
    return card(
        _TEMPLATE,
        head,
        title=title,
        rows=rows.height,
        sources=sources.select("source", "len", "licence", "version").rows(),
        private=list(found.private.items()),
        empty=found.empty,
        stages=[(name, each["rows"], each.get("kept")) for name, each in counts.items()],
        models=list(_asked(config, counts)),
        mode=config.select.mode,
        count=config.select.count,
        seed=config.seed,
        right=int(rows["correct"].sum()),
        against=[each.name for each in config.decontaminate.against],
        rule=config.decontaminate.rule,
        evaluation_questions=counts["decontaminate"]["evaluation_questions"],
        version=__version__,
        commit=commit(),
    )


def _told(models: Mapping[str, Mapping[str, Any]], asked: Asked) -> Mapping[str, Any]:
    """What a stage counts of a model among its `models`; empty where it counts none, or the checkpoint is gone."""
    if len(models) == 1:
        return next(iter(models.values()))
    with suppress(InputError):
        return models.get(name_of(asked.model), {}) if models else {}
    return {}


def _asked(config: Config, counts: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str, str, Any, Any]]:
    """(what was asked, model, settings, calls, errors) of every model."""
    asked: list[tuple[str, Asked | None]] = [("trace", config.trace)]
    asked += [("attempt", each) for each in (config.attempt.models if config.attempt else ())]
    asked += [("grade", config.grade.judge)]
    if config.domain.model is not None:
        asked += [("domain", Asked(model=config.domain.model, sampling=config.domain.sampling))]
    for stage, each in asked:
        if each is not None:
            model = str(each.model["model"])
            told = _told(counts[stage].get("models", {}), each)
            path = model.removeprefix(ENGINE)
            folder = Path(path).resolve() if Path(path).is_dir() else Path(path)  # a link is called what it leads to
            where = f"{folder.name} in process" if path != model else model
            yield stage, where, each.sampling.canonical, told.get("calls", ""), told.get("errors", "")
