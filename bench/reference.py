"""`python -m bench.reference`: the tables of docs/reference.md, every field of every configuration.

`msgspec.inspect` tells types, limits and defaults; what a field means is the docstring below it, read from the syntax
tree. `tests/test_reference.py` holds that the file is what the code says, and that no field goes without a word.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import get_args

import msgspec
import tyro
from msgspec import inspect as types

from bench.evaluation.grid import Grid
from bench.evaluation.methods import Method
from bench.evaluation.search_methods import AnySearch
from curate.config import Config
from curate.models.client import EndpointConfig
from curate.models.local import LocalConfig
from curate.sources import AnySource
from engine.config import EngineConfig
from engine.request import SamplingParams
from train.config import TrainConfig

BEGIN = "<!-- reference: begin (python -m bench.reference --write docs/reference.md) -->"
END = "<!-- reference: end -->"
ROOTS: dict[str, tuple[type, ...]] = {
    "Evaluating": (Grid,),
    "Curating": (Config, EndpointConfig, LocalConfig),
    "Training": (TrainConfig,),
    "Running the engine": (EngineConfig,),
    "Asking for a response": (SamplingParams,),
}
"""Parts of the page, and the structures from which all others of a part are reached."""


def fields(kind: type) -> tuple[types.Field, ...]:
    """All fields of a structure."""
    found = types.type_info(kind)
    assert isinstance(found, types.StructType | types.DataclassType)
    return found.fields


def own_fields(kind: type) -> list[types.Field]:
    """Fields that the class itself declares. What a dataclass holds has its fields beside them, see `bases`."""
    own = inspect.get_annotations(kind)
    return [one for one in fields(kind) if one.name in own and not isinstance(one.type, types.DataclassType)]


def ancestry(kind: type) -> list[type]:
    """The class and those of ours that it inherits from, the nearest first."""
    return [each for each in kind.__mro__ if each.__module__.partition(".")[0] not in ("msgspec", "builtins")]


def bases(kind: type) -> list[type]:
    """Whose fields it has beside its own: what it inherits from, the most general first, and dataclasses in it."""
    beside = [field.type.cls for field in fields(kind) if isinstance(field.type, types.DataclassType)]
    return [base for base in (*ancestry(kind)[:0:-1], *beside) if own_fields(base)]


def structs(kind: types.Type) -> Iterator[type]:
    """Structures in a type, in the order in which it names them."""
    match kind:
        case types.StructType(cls):
            yield cls
        case types.UnionType(parts) | types.TupleType(parts):
            for part in parts:
                yield from structs(part)
        case types.ListType(item) | types.VarTupleType(item) | types.DictType(_, item):
            yield from structs(item)


def covered(kind: type, seen: list[type]) -> None:
    """Add to `seen` a structure behind its bases, and behind it all those that its fields hold."""
    if kind not in seen:
        for base in bases(kind):
            if issubclass(base, msgspec.Struct):
                covered(base, seen)
        seen.append(kind)
        for inner in (inner for field in own_fields(kind) for inner in structs(field.type)):
            covered(inner, seen)


def title(kind: type) -> str:
    """The heading: what a file says to choose it (`method: budget`), otherwise the name of the class."""
    found = types.type_info(kind)
    if isinstance(found, types.StructType) and kind in get_args(Method | AnySearch | AnySource):
        return f"{found.tag_field}: {found.tag}"
    return kind.__name__.lstrip("_")


def link(kind: type, text: str = "") -> str:
    """A link to the structure's heading, by the name that GitHub gives it."""
    return f"[{text or title(kind)}](#{re.sub(r'[^a-z0-9_ -]', '', title(kind).lower()).replace(' ', '-')})"


@cache
def documented(file: str) -> dict[str, dict[str, str]]:
    """Docstrings of the fields of every class in a file."""
    found: dict[str, dict[str, str]] = {}
    for node in ast.walk(ast.parse(Path(file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            for field, behind in zip(node.body, node.body[1:], strict=False):
                match field, behind:
                    case ast.AnnAssign(target=ast.Name(name)), ast.Expr(value=ast.Constant(value=str(text))):
                        found.setdefault(node.name, {})[name] = " ".join(text.split())
    return found


def meaning(kind: type, field: types.Field) -> str:
    """What a field means: its docstring, here or in a base; of a section without one, or with one that tells of its
    absence only, what the section says of itself. "" where nothing is said."""
    said = (documented(inspect.getfile(each)).get(each.__name__, {}).get(field.name) for each in ancestry(kind))
    text = next(filter(None, said), "")
    inner = [] if text and not text.startswith("None: ") else list(structs(field.type))
    section = (inspect.getdoc(inner[0]) or "").partition("\n\n")[0].replace("\n", " ") if len(inner) == 1 else ""
    return f"{section} {text}".strip()


def linked(text: str) -> str:
    """A meaning as the page has it: a file's `null` for `None`, and links where other tables are named."""
    names = {root.__name__: root for roots in ROOTS.values() for root in roots if root not in (Grid, Config)}
    text = re.sub(r"\bNone\b", "null", text)
    return re.sub(rf"(?<![\w.`])({'|'.join(names)})\b", lambda found: link(names[found[0]]), text)


def limits(kind: types.IntType | types.FloatType) -> str:
    """The least and the most that a number may be; "" without."""
    low = f" of {kind.ge:g} or more" if kind.ge is not None else "" if kind.gt is None else f" above {kind.gt:g}"
    high = f" at most {kind.le:,.9g}" if kind.le is not None else "" if kind.lt is None else f" below {kind.lt:g}"
    return low + "," * bool(low and high) + high


def words(kind: types.Type) -> str:
    """A type in a reader's words, as Markdown."""
    match kind:
        case types.StrType():
            return "text"
        case types.BoolType():
            return "true or false"
        case types.FloatType(ge=0, le=1):
            return "share 0 to 1"
        case types.FloatType() | types.IntType():
            return ("number" if isinstance(kind, types.FloatType) else "whole number") + limits(kind)
        case types.LiteralType(values):
            return "one of " + " | ".join(f"`{value}`" for value in values)
        case types.StructType(cls, tag=tag):
            return link(cls, str(tag or ""))
        case types.UnionType(found) if types.NoneType() in found:
            rest = tuple(part for part in found if part != types.NoneType())
            return f"{words(types.UnionType(rest))} or null"
        case types.UnionType((types.StructType(tag_field=str(tag)), _, *_) as found):
            return f"`{tag}`, one of " + ", ".join(map(words, found))
        case types.UnionType(found):
            return " or ".join(sorted(map(words, found), key=lambda said: said.startswith("list")))
        case types.VarTupleType(item) | types.ListType(item):
            return f"list of {'one or more: ' * bool(kind.min_length)}" + words(item).replace("number", "numbers", 1)
        case types.TupleType(found):
            return f"list of {len(found)}: {', '.join(map(words, found))}"
        case types.DictType(_, types.AnyType()):
            return "mapping"
        case types.DictType(key, value):
            return f"mapping of {words(key)} to {words(value)}"
    raise ValueError(f"no words for the type {kind}")


def default(field: types.Field) -> str:
    """A default as a file would have it; a section's is told in its own table."""
    if field.required:
        return "required"
    value = field.default if field.default_factory is types.NODEFAULT else field.default_factory()
    if isinstance(value, msgspec.Struct):
        return "its defaults"
    plain = isinstance(value, str) and re.fullmatch(r"[\w./-]+", value)
    return f"`{value if plain else json.dumps(msgspec.to_builtins(value))}`"


def row(*cells: str) -> str:
    """A line of a table."""
    return "| " + " | ".join(re.sub(r"(?<!\\)\|", r"\\|", cell) for cell in cells) + " |"


def table(kind: type) -> Iterator[str]:
    """Heading, docstring, where more fields stand, and the fields."""
    yield from (f"### {title(kind)}", "", inspect.getdoc(kind) or "", "")
    if above := bases(kind):
        yield from (f"Beside its own it has the fields of {', '.join(map(link, above))}.", "")
    if own_fields(kind):
        yield from (row("field", "type", "default", "meaning"), "|---|---|---|---|")
        for field in own_fields(kind):
            form = words(field.type)
            if isinstance(field.type, types.UnionType):
                form = re.sub(" or null$", ", optional", form)
            yield row(f"`{field.name}`", form, default(field), linked(meaning(kind, field)))
        yield ""


def tables() -> str:
    """All of it, as Markdown."""
    lines: list[str] = []
    seen: list[type] = []
    for part, roots in ROOTS.items():
        before = len(seen)
        for root in roots:
            covered(root, seen)
        lines += (f"## {part}", "", *(line for kind in seen[before:] for line in table(kind)))
    return "\n".join(lines)


def written(text: str) -> str:
    """`text` with new tables between its markers. Raises ValueError where they are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the file lacks the markers {BEGIN} and {END}; add them where the tables belong")
    return f"{before}{begin}\n{tables()}\n{end}{after}"


def main(write: Path | None = None) -> None:
    """Print the tables of docs/reference.md, or write them.

    Args:
        write: A file whose tables, between its markers, are replaced.
    """
    try:
        if write is None:
            print(tables())
        else:
            write.write_text(written(write.read_text(encoding="utf-8")), encoding="utf-8")
    except (OSError, ValueError) as error:
        raise SystemExit(f"bench.reference: {write}: {error}") from None


if __name__ == "__main__":
    tyro.cli(main, prog="python -m bench.reference")
