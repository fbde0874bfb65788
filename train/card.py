"""Model cards: what a run has exported, its data, settings and figures, how to use it, and where it comes from."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import __version__
from engine.command.append_log import read_lines
from engine.commit import commit
from engine.hub_card import CARD, UNKNOWN, card, licence_fields, licences_of, write_card
from engine.hub_data import PREFIX
from train.architecture import Architecture
from train.config import TrainConfig
from train.data import Dataset
from train.span import Span

_TEMPLATE = Path(__file__).with_name("model_card.md.jinja")


@dataclass(frozen=True)
class Exported:
    """What a run has ended in. `kept`: the share of what was learned that bfloat16 keeps; None: it was not measured."""

    steps: int
    dtype: str
    kept: float | None


@dataclass(frozen=True)
class _Base:
    """The model before the run: what it is called here, its id on the hub, and its licences, where it has them."""

    name: str | None
    hub_id: str | None
    licences: list[str]


def write_cards(
    run: Path,
    config: TrainConfig,
    config_file: Path,
    arch: Architecture,
    data: Dataset,
    heldout: Dataset | None,
    exported: Exported,
    spans: Sequence[Span],
) -> None:
    """Puts README.md into `export/`, and into `adapter/` where there is one; one that someone has edited stays."""
    base = _base(config, config_file)
    who = "ask the base's authors" if base.name else "whoever publishes it names one"
    values = {
        "base": base.name,
        "base_id": base.hub_id,
        "kind": arch.model_type,
        "parameters": arch.num_parameters,
        "dtype": exported.dtype,
        "lora": config.lora,
        "files": [(_public(file.name), file.sha256) for file in data.files],
        "samples": len(data),
        "tokens": int(data.offsets[-1]),
        "targets": int(data.targets.sum()),
        "dropped": len(data.dropped),
        "max_tokens": config.data.max_tokens,
        "heldout": _heldout(config, data, heldout),
        "settings": list(_settings_of_spans(config, spans)),
        "figures": list(_figures(run, exported)),
        "licence": f"{', '.join(base.licences)}, the base's" if base.licences else f"unknown: {who}",
        "version": __version__,
        "commit": commit(),
        "seed": config.seed,
    }
    on_the_hub = (name.removeprefix(PREFIX).split("/") for name in config.data.train if name.startswith(PREFIX))
    sets = list(dict.fromkeys("/".join(parts[:2]) for parts in on_the_hub))
    tags = ["s1-engine", "sft", *(["lora"] if config.lora else [])]
    for folder in [run / "export", *([run / "adapter"] if config.lora else [])]:
        adapter = folder.name == "adapter"
        head = {
            **licence_fields(*(base.licences or [UNKNOWN])),
            "base_model": base.hub_id,
            "datasets": sets,
            "library_name": "peft" if adapter else "transformers",
            "pipeline_tag": "text-generation",
            "tags": tags,
        }
        title = config.run.rstrip("/").rpartition("/")[2] + (" (adapter)" if adapter else "")
        write_card(folder, card(_TEMPLATE, head, title=title, adapter=adapter, **values))


def _base(config: TrainConfig, config_file: Path) -> _Base:
    given = config.model.path
    if given is None:
        return _Base(None, None, [])
    folder = config_file.parent
    if Path(given).expanduser().is_dir() or not re.fullmatch(r"[\w.-]+/[\w.-]+", given):
        return _Base(folder.resolve().name, None, licences_of(folder / CARD))
    return _Base(given, given, licences_of(folder / CARD) or _licences_on_the_hub(given))


def _licences_on_the_hub(name: str) -> list[str]:
    """Of the card of a model that came from there, whose card did not come with its weights."""
    from huggingface_hub import hf_hub_download  # only here, where its second of imports buys something

    try:
        return licences_of(Path(hf_hub_download(name, CARD)))
    except Exception:  # no card, or no network any more: the card then says that the licence is not known
        return []


def _public(name: str) -> str:
    """Of a path the file's name alone: the folders of who trained are nobody's business."""
    return name if name.startswith(PREFIX) else Path(name).name


def _heldout(config: TrainConfig, data: Dataset, heldout: Dataset | None) -> str:
    if heldout is None:
        return ""
    about = f"{len(heldout):,} samples of {int(heldout.offsets[-1]):,} tokens"
    if config.data.heldout_share:
        return f"{about}, {config.data.heldout_share:g} of the files' samples, by a hash of their tokens"
    if shared := heldout.of_which_in(data):
        about += f", {shared:,} of which are trained on too"
    return f"{about}, " + ", ".join(f"{_public(file.name)} (SHA-256 {file.sha256})" for file in heldout.files)


def _settings_of_spans(config: TrainConfig, spans: Sequence[Span]) -> Iterator[tuple[str, Any]]:
    """The settings, each with what it became while the run went on."""
    tables = [dict(_settings(span.applied(config))) for span in spans]
    for name, first in tables[0].items():
        said = str(first)
        for before, after, span in zip(tables, tables[1:], spans[1:], strict=False):
            if after[name] != before[name]:
                said += f"; from step {span.begin + 1} on {after[name]}"
        yield name, said


def _settings(config: TrainConfig) -> Iterator[tuple[str, Any]]:
    optim, data = config.optim, config.data
    yield "epochs", config.epochs
    yield "samples per step", data.batch_size
    yield "optimiser", f"{optim.kind}, betas {optim.betas[0]:g} and {optim.betas[1]:g}, eps {optim.eps:g}"
    yield "learning rate", f"{optim.lr:g}, warm-up {optim.warmup:g} of the steps, cosine to {optim.min_lr:g}"
    yield "weight decay", f"{optim.weight_decay:g}"
    yield "gradient clipping", f"{optim.clip:g}"
    yield "loss", f"{data.loss}, {config.reduction}"
    yield "longest sample", data.max_tokens
    yield "number formats", f"{config.compute.dtype}, master weights {config.compute.master_dtype}"
    if config.lora is not None:
        yield "LoRA", f"rank {config.lora.rank}, alpha {config.lora.alpha:g}, {', '.join(config.lora.targets)}"


def _figures(run: Path, exported: Exported) -> Iterator[tuple[str, str]]:
    with (run / "metrics.jsonl").open("rb") as file:
        records: list[Mapping[str, Any]] = [line.value for line in read_lines(file, "metrics.jsonl", lambda _: True)]
    steps = [record for record in records if "loss" in record]
    held = [record["heldout_loss"] for record in records if "heldout_loss" in record]
    yield "steps", f"{exported.steps:,}"
    if steps:
        yield (
            f"loss of step {steps[0]['step']} and step {steps[-1]['step']}",
            f"{steps[0]['loss']:.4f}, {steps[-1]['loss']:.4f}",
        )
    if len(held) > 1:
        yield "held-out loss before and after", f"{held[0]:.4f}, {held[-1]:.4f}"
    if steps:
        seconds = sum(record["seconds"] for record in steps) / len(steps) * exported.steps
        by = "" if len(steps) == exported.steps else f", by the {len(steps)} steps in metrics.jsonl"
        yield "time in steps", (f"{seconds:.1f} seconds" if seconds < 120 else f"{seconds / 60:.1f} minutes") + by
    if exported.kept is not None:
        yield "of what was learned, bfloat16 keeps", f"{exported.kept:.1%}"
