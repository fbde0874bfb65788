"""What is wrong with a value that is no structure, in words: setting, value, and what is known in its place."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect

from engine.errors import shown

_MOST = 400
"""Characters of a list of known values, which shares a line with setting and value."""
_UNKNOWN = object()
_YAML = (("`object", "`mapping"), ("object`", "mapping`"), ("`array", "`list"), ("array`", "list`"))


def choices(value: Any, known: Iterable[Any]) -> str:
    """The end of a message on an unknown `value`: the nearest known one, and the known ones as far as a line goes; ""
    where none is known."""
    names = {str(name): name for name in known}
    texts = [shown(name) if isinstance(name, str) else _spelled(name) for name in names.values()]
    folded = {name.lower(): name for name in names}
    near = difflib.get_close_matches(str(value).lower(), folded, n=1)
    meant = f"; did you mean {shown(names[folded[near[0]]])}?" if near else ""
    fit = next((i for i in range(len(texts)) if len(", ".join(texts[: i + 1])) > _MOST), len(texts))
    rest = f" and {len(texts) - fit} more" if fit < len(texts) else ""
    return f"{meant}{' ' if meant else '; '}known: {', '.join(texts[:fit])}{rest}" if texts else ""


def explained(error: msgspec.ValidationError, tree: Any, kind: type) -> str:
    """msgspec's message with the setting's full name and value, and what is known beside an unknown one."""
    message = str(error)
    what, _, where = message.rpartition(" - at `") if " - at `" in message else (message, "", "")
    where = where.strip("$.`")
    if error.__cause__ is not None:
        return f"{where}: {error.__cause__}" if where else str(error.__cause__)
    if where.startswith("key` in"):
        owner = where.removeprefix("key` in `$").lstrip(".") or "the configuration"
        return f"{owner} has a name that is no text, {what.partition(', ')[2] or 'or null'}"
    place, whole = re.findall(r"\w+|\.\.\.", where), inspect.type_info(kind)
    field = re.fullmatch(r"Object .*(unknown|required) field `(.*)`", what, re.DOTALL)
    if field is not None:
        name, kinds = f"{where}.{field[2]}" if where else field[2], _standing([whole], tree, place)
        if field[1] == "required":
            return f"{name} is missing{choices('', _tags(kinds, field[2]))}"
        known = sorted({name for each in kinds for name in _fields(each)})
        near = difflib.get_close_matches(field[2], known, n=1)
        return f"unknown setting {name}; " + (f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}")
    *parents, last = place or [""]
    known_values = _values(_standing([whole], tree, place)) or _tags(_standing([whole], tree, parents), last)
    for old, new in _YAML:
        what = what.replace(old, new)
    value = tree
    for key in place:
        value = _inside(value, key)
    if not where or value is _UNKNOWN:  # of a mapping, whose key is not told, or a name that looks like a place
        return f"{where}: {what}{choices('', known_values)}" if where else what
    said = "" if what.startswith("Invalid ") else f": {what[0].lower()}{what[1:]}"
    if known_values:
        return f"{where} is {shown(value)}{said}{choices(value, known_values)}"
    text = re.match(r"Expected `(\w+ \| )*str\b", what) and isinstance(value, (bool, int, float))
    quotes = f'; as text it is written "{_spelled(value)}"' if text else ""
    return f"{where} is {shown(value)}{said}{quotes}"


def _spelled(value: Any) -> str:
    """As YAML has it."""
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else shown(value)


def _inside(value: Any, key: str) -> Any:
    """What `value` holds at `key`; `_UNKNOWN` where it holds nothing there."""
    try:
        return value[int(key) if isinstance(value, (list, tuple)) else key]
    except (LookupError, TypeError, ValueError):
        return _UNKNOWN


def _standing(kinds: Iterable[inspect.Type], value: Any, place: Sequence[str]) -> list[inspect.Type]:
    """The types that may stand at `place` inside a `value` of one of `kinds`; of tagged structures those whose tag it
    has, where it has a known one."""
    flat = [each for kind in kinds for each in (kind.types if isinstance(kind, inspect.UnionType) else [kind])]
    if isinstance(value, Mapping):
        flat = [
            each
            for each in flat
            if isinstance(each, inspect.StructType) and each.tag_field in value and value[each.tag_field] == each.tag
        ] or flat
    if not place:
        return flat
    inner: list[inspect.Type] = []
    for each in flat:
        if isinstance(each, (inspect.StructType, inspect.DataclassType)):
            inner += [field.type for field in each.fields if field.encode_name == place[0]]
        elif isinstance(each, (inspect.VarTupleType, inspect.ListType)):
            inner.append(each.item_type)
        elif isinstance(each, inspect.TupleType) and place[0].isdigit():
            inner += each.item_types[int(place[0]) :][:1]
        elif isinstance(each, inspect.DictType):
            inner.append(each.value_type)
    return _standing(inner, _inside(value, place[0]), place[1:])


def _fields(kind: inspect.Type) -> list[str]:
    if not isinstance(kind, (inspect.StructType, inspect.DataclassType)):
        return []
    tag = [kind.tag_field] if isinstance(kind, inspect.StructType) and kind.tag_field else []
    return [*tag, *(field.encode_name for field in kind.fields)]


def _tags(kinds: Iterable[inspect.Type], field: str) -> list[Any]:
    """The tags under `field` that tell structures apart."""
    return [each.tag for each in kinds if isinstance(each, inspect.StructType) and each.tag_field == field]


def _values(kinds: Iterable[inspect.Type]) -> list[Any]:
    """The values of literals and enumerations."""
    found: list[Any] = []
    for each in kinds:
        if isinstance(each, inspect.LiteralType):
            found += each.values
        elif isinstance(each, inspect.EnumType):
            found += [member.value for member in each.cls]
    return found
