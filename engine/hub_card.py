"""Cards of models and data sets: README.md with a YAML head that the hub reads, made from a template, and its check."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engine.errors import InputError, first_line, plain, refuse, shown, tell
from engine.input_file import read_regular
from engine.whole_file import write_whole

CARD = "README.md"
UNKNOWN = "unknown"
_LICENCE = re.compile(
    r"apache-2\.0|mit|bsd-[23]-clause|isc|unlicense|mpl-2\.0|gpl-2\.0|[al]?gpl-3\.0|cc|cc0-1\.0|cc-by(-sa)?-[34]\.0|"
    r"cc-by-(nd|nc|nc-sa|nc-nd)-4\.0|odc-by|odbl|openrail|gemma|llama[234]|llama3\.[123]|other|unknown"
)
"""Of what the hub takes under `license`; any other may stand there as `other`, with its name beside it."""
_HEAD = re.compile(r"\A\ufeff?---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_MOST_BYTES = 1 << 22
_SEAL = re.compile(r"\n<!-- written by s1-engine, sha256 of what is above: ([0-9a-f]{64}) -->\n\Z")
"""A card's last line. Where it is not true any more, someone has edited the card."""


def write_card(folder: Path, text: str) -> bool:
    """Makes `text` the card of `folder`, unless there is one that someone has edited: that one stays, and a line on
    standard error says so. Returns whether it was written."""
    if is_edited(folder):
        tell(f"{folder / CARD} was edited and stays as it is; remove it to have it written anew", "note")
        return False
    seal = f"<!-- written by s1-engine, sha256 of what is above: {hashlib.sha256(text.encode()).hexdigest()} -->\n"
    write_whole(folder / CARD, f"{text}\n{seal}")
    return True


def is_edited(folder: Path) -> bool:
    """Whether `folder` has a card that is not, to the byte, what `write_card` wrote."""
    readme = folder / CARD
    if not readme.exists():
        return False
    text = read_regular(readme, _MOST_BYTES).decode("utf-8", "replace")
    seal = _SEAL.search(text)
    return seal is None or hashlib.sha256(text[: seal.start()].encode()).hexdigest() != seal[1]


def licence_fields(*licences: str) -> dict[str, str | list[str]]:
    """`license`, one or a list, of the hub's list, or `other` and `license_name`, of licences as owners write them."""
    names = [re.sub(r"[^a-z0-9.]+", "-", licence.lower()).strip("-") or UNKNOWN for licence in licences]
    ids = list(dict.fromkeys(name if _LICENCE.fullmatch(name) else "other" for name in names))
    others = list(dict.fromkeys(name[:60] for name in names if not _LICENCE.fullmatch(name)))
    fields: dict[str, str | list[str]] = {"license": ids[0] if len(ids) == 1 else ids}
    return fields | ({"license_name": others[0]} if len(others) == 1 else {})


def card(template: Path, head: Mapping[str, Any], **values: Any) -> str:
    """The card of a Markdown template. Text among `values` is one line each, and no Markdown or HTML."""
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
    escaped = re.sub(r"([\\|\[\]!*])", r"\\\1", plain(text).replace("`", "'"))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def card_head(readme: Path) -> dict[str, Any]:
    """The YAML head of a card; empty where there is no card, no head, or one that cannot be read."""
    try:
        text = read_regular(readme, _MOST_BYTES).decode("utf-8", "replace")
        head = _HEAD.match(text)
        values = yaml.safe_load(head[1]) if head is not None else None
    except (OSError, InputError, yaml.YAMLError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def licences_of(readme: Path) -> list[str]:
    """The licences that a card names, in its head or in a line "License: NAME"; empty where it names none."""
    head = card_head(readme)
    given = head.get("license")
    ids = [name for name in (given if isinstance(given, list) else [given]) if isinstance(name, str)]
    other = head.get("license_name")
    named = [other if name == "other" and isinstance(other, str) else name for name in ids if name.lower() != UNKNOWN]
    if named:
        return named
    try:
        text = read_regular(readme, _MOST_BYTES).decode("utf-8", "replace")
    except (OSError, InputError):
        return []
    line = re.search(r"^licen[cs]e:\s*([\w.+-]*\w)", text, re.IGNORECASE | re.MULTILINE)
    return [line[1]] if line is not None and line[1].lower() != UNKNOWN else []


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
