"""Cards of models and data sets: README.md with a YAML head that the hub reads, made from a template, and its check."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engine.errors import InputError, first_line, plain, refuse, shown
from engine.input_file import read_regular

CARD = "README.md"
UNKNOWN = "unknown"
_LICENCE = re.compile(
    r"apache-2\.0|mit|bsd-[23]-clause|isc|unlicense|mpl-2\.0|gpl-2\.0|[al]?gpl-3\.0|cc|cc0-1\.0|cc-by(-sa)?-[34]\.0|"
    r"cc-by-(nd|nc|nc-sa|nc-nd)-4\.0|odc-by|odbl|openrail|gemma|llama[234]|llama3\.[123]|other|unknown"
)
"""Of what the hub takes under `license`; any other may stand there as `other`, with its name beside it."""
_HEAD = re.compile(r"\A\ufeff?---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_MOST_BYTES = 1 << 22


def licence_fields(licence: str) -> dict[str, str]:
    """`license` of the hub's list, or `other` and `license_name`, of a licence as its owner writes it."""
    name = re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-") or UNKNOWN
    return {"license": name} if _LICENCE.fullmatch(name) else {"license": "other", "license_name": name[:60]}


def card(template: Path, head: Mapping[str, Any], **values: Any) -> str:
    """The card of a Markdown template. Text among `values` is one line each that no table or element breaks."""
    pages = Environment(
        loader=FileSystemLoader(template.parent),
        autoescape=False,  # Markdown
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=lambda value: _inline(value) if isinstance(value, str) else value,
    )
    said = {name: value for name, value in head.items() if value not in (None, [], "")}
    top = yaml.safe_dump(said, sort_keys=False, allow_unicode=True)
    return f"---\n{top}---\n\n{pages.get_template(template.name).render(values).strip()}\n"


def _inline(text: str) -> str:
    return plain(text).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "'")


def card_head(readme: Path) -> dict[str, Any]:
    """The YAML head of a card; empty where there is no card, no head, or one that cannot be read."""
    try:
        text = read_regular(readme, _MOST_BYTES).decode("utf-8", "replace")
        head = _HEAD.match(text)
        values = yaml.safe_load(head[1]) if head is not None else None
    except (OSError, InputError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def licence_of(readme: Path) -> str | None:
    """The licence that a card names, in its head or in a line "License: NAME"; None where it names none."""
    head = card_head(readme)
    named = head.get("license_name") if head.get("license") == "other" else head.get("license")
    if isinstance(named, str) and named.lower() != UNKNOWN:
        return named
    try:
        text = read_regular(readme, _MOST_BYTES).decode("utf-8", "replace")
    except (OSError, InputError):
        return None
    line = re.search(r"^licen[cs]e:\s*([\w.+-]*\w)", text, re.IGNORECASE | re.MULTILINE)
    return line[1] if line is not None and line[1].lower() != UNKNOWN else None


def check_card(folder: Path, kind: Literal["model", "dataset"]) -> None:
    """What of the hub's own check needs no hub. Raises InputError naming card and field for a card that is missing, has
    no head, that huggingface_hub cannot read, or with a licence, a base model or a data set in no form that the hub
    knows."""
    from huggingface_hub import DatasetCard, ModelCard
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    readme = folder / CARD
    if not readme.is_file():
        raise InputError(f"{readme} is missing; run the command that writes {folder} again")
    if _HEAD.match(readme.read_text("utf-8", "replace")) is None:
        raise InputError(f'{readme} does not begin with a head of YAML between two lines "---"; put it back')
    try:
        head = (ModelCard if kind == "model" else DatasetCard).load(readme).data.to_dict()
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{readme}: its head cannot be read ({first_line(error)}); mend it") from error
    licences = head.get("license", [])
    for licence in [licences] if isinstance(licences, str) else licences:
        refuse(
            (
                not isinstance(licence, str) or not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", licence),
                f"{readme}: license is {shown(licence)}; give an id of the hub's list, such as mit, or `other` and its "
                "license_name",
            )
        )
    for field in ("base_model", "datasets"):
        named = head.get(field, [])
        for name in [named] if isinstance(named, str) else named:
            try:
                validate_repo_id(name)
            except HFValidationError as error:
                raise InputError(f"{readme}: {field} is {shown(name)}, which is no hub id; take it out") from error
