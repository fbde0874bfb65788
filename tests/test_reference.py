"""docs/reference.md: what the code says, every field with a word, every link with a heading."""

import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta, inspect

from bench import reference

PAGE = Path(__file__).resolve().parents[1] / "docs/reference.md"


def structures() -> list[type]:
    seen: list[type] = []
    for root in (root for roots in reference.ROOTS.values() for root in roots):
        reference.covered(root, seen)
    return seen


def test_the_tables_are_those_of_the_code():
    text = PAGE.read_text(encoding="utf-8")
    assert reference.written(text) == text, "give `python -m bench.reference --write docs/reference.md`"


def test_every_field_says_what_it_means():
    silent = [
        f"{kind.__module__}.{kind.__name__}.{field.name}"
        for kind in structures()
        for field in reference.own_fields(kind)
        if not reference.meaning(kind, field)
    ]
    assert not silent, f"give a docstring below the field: {', '.join(silent)}"


def test_every_field_stands_in_its_own_table_or_in_one_that_is_named():
    found = structures()
    for kind in found:
        told = {field.name for one in (kind, *reference.bases(kind)) for field in reference.own_fields(one)}
        assert all(base in found for base in reference.bases(kind))
        assert {one.name for one in reference.fields(kind) if not isinstance(one.type, inspect.DataclassType)} <= told


def test_links_lead_to_headings_that_are_there_once():
    text = PAGE.read_text(encoding="utf-8")
    headings = Counter(
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in text.splitlines()
        if re.match("#+ ", line)
    )
    assert not [name for name, count in headings.items() if count > 1]
    links = set(re.findall(r"\]\(#([^)]*)\)", text))
    assert {"method-budget", "adapter-math", "adapter-s1-prob", "engineconfig", "source"} <= links <= headings.keys()
    assert all((PAGE.parent / name).is_file() for name in re.findall(r"\]\(([\w.]+)\)", text))


def test_every_row_has_four_cells():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {6}


class Inner(msgspec.Struct, frozen=True):
    """A section."""

    here: int = 0


@pytest.mark.parametrize(
    "kind, words",
    [
        (Annotated[int, Meta(ge=1)], "whole number of 1 or more"),
        (Annotated[float, Meta(gt=0, le=1e7)], "number above 0, at most 10,000,000"),
        (Annotated[float, Meta(ge=0, lt=1)], "number of 0 or more, below 1"),
        (Annotated[float, Meta(ge=0, le=1)], "share 0 to 1"),
        (Literal["b", "a"], "one of `a` | `b`"),
        (bool | None, "true or false or null"),
        (Annotated[tuple[int | None, ...], Meta(min_length=1)], "list of one or more: whole numbers or null"),
        (tuple[float, float], "list of 2: number, number"),
        (dict[str, float], "mapping of text to number"),
        (dict[str, Any], "mapping"),
        (tuple[str, ...] | str, "text or list of text"),
        (Inner | None, "[Inner](#inner) or null"),
    ],
)
def test_types_are_told_in_words(kind, words):
    assert reference.words(inspect.type_info(kind)) == words


def test_a_field_without_a_docstring_is_silent_and_a_section_speaks_for_itself():
    class Outer(msgspec.Struct):
        silent: int
        section: Inner = Inner()

    meanings = [reference.meaning(Outer, field) for field in reference.fields(Outer)]
    assert meanings == ["", "A section."]


def test_tables_are_replaced_between_their_markers():
    text = reference.written(f"# Title\n{reference.BEGIN}\nwhat stood\n{reference.END}\nrest")
    assert text.startswith("# Title\n") and text.endswith("\nrest") and "what stood" not in text
    with pytest.raises(ValueError, match="lacks the markers"):
        reference.written("# Title")
