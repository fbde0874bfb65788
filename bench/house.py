"""`python -m bench.house`: the drawing of docs/house.md, read from the syntax trees.

The five packages stand on four floors; inside, a folder is a wing and a file beside the wings is a room in the hall.
Every import is an arrow, wherever it stands, type-only ones too. `tests/test_house.py` holds what is said here: no
arrow points up, none lead in a circle, and nothing stands in two places.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import tyro

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {"kernels": 0, "engine": 1, "train": 2, "curate": 2, "bench": 3}
"""An arrow leads to a lower floor or stays within its package."""
DRAWN = ("engine", "curate")
"""Packages whose wings are drawn."""
LONGEST = 6
"""Lines that are the same in two places, from which on they are found."""
BEGIN, END = "<!-- house: begin (python -m bench.house --write docs/house.md) -->", "<!-- house: end -->"

Graph = Mapping[str, set[str]]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Files by the names that imports know them by."""
    files = (file for package in FLOORS for file in sorted((root / package).rglob("*.py")))
    return {".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


def imported(file: Path, files: Mapping[str, Path]) -> Iterator[str]:
    """Our own modules that a file asks for, by `import` and by `from`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.module in files:
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in files else node.module for name in inner)


def arrows(files: Mapping[str, Path]) -> dict[str, set[str]]:
    """What every module imports of ours."""
    return {name: set(imported(file, files)) - {name} for name, file in files.items()}


def wing(name: str) -> str:
    """The folder inside a package that holds a module; a module of the hall stands for itself."""
    return ".".join(name.split(".")[:2])


def gathered(graph: Graph) -> dict[str, set[str]]:
    """The arrows between wings and rooms of the hall."""
    found: dict[str, set[str]] = {wing(name): set() for name in graph}
    for name, others in graph.items():
        found[wing(name)] |= {wing(other) for other in others}
    return {name: others - {name} for name, others in found.items()}


def reached(graph: Graph, start: str) -> set[str]:
    """Everything that arrows lead to from `start`, itself only by way of a circle."""
    seen, waiting = set[str](), [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - seen
        seen |= new
        waiting += new
    return seen


def circles(graph: Graph) -> list[list[str]]:
    """Groups of names each of which leads to all the others (strongly connected components of more than one)."""
    reach = {name: reached(graph, name) for name in graph}
    groups = {frozenset(other for other in reach[name] if name in reach.get(other, ())) for name in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def upward(graph: Graph) -> list[str]:
    """Arrows that lead to the same floor of another package, or to a higher one."""
    pairs = ((a, b, a.split(".")[0], b.split(".")[0]) for a, others in graph.items() for b in others)
    return sorted(f"{a} -> {b}" for a, b, here, there in pairs if here != there and FLOORS[there] >= FLOORS[here])


def reduced(graph: Graph) -> dict[str, set[str]]:
    """The arrows that do not follow from others: where a leads to b by way of c, a -> b is left out."""
    reach = {name: reached(graph, name) for name in graph}

    def direct(a: str, b: str) -> bool:
        return not any(b in reach[c] for c in graph[a] - {b} if c in reach and a not in reach[c])

    return {a: {b for b in others if direct(a, b)} for a, others in graph.items()}


@dataclass(frozen=True)
class Line:
    """A line of code without what does not count: its indentation and its comment."""

    file: str
    number: int
    text: str


def code(file: Path, name: str) -> list[list[Line]]:
    """Runs of lines that may be compared, cut where a function or class begins. Imports and docstrings are taken out,
    and what stands alone on a line because the formatter puts one argument on each."""
    text = file.read_text(encoding="utf-8")
    out, cuts = set[int](), set[int]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        ):
            out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min(each.lineno for each in (node, *node.decorator_list))
            cuts |= set(range(first, node.body[0].lineno))
    runs: list[list[Line]] = [[]]
    for number, raw in enumerate(text.splitlines(), 1):
        if number in cuts:
            runs.append([])
        line = re.sub(r"\s+#\s.*$", "", raw).strip()
        counts = re.search(r"\w", line) and not re.fullmatch(r"[\w.]+,", line) and not line.startswith("#")
        if counts and number not in out | cuts:
            runs[-1].append(Line(name, number, line))
    return [run for run in runs if run]


def duplicates(files: Iterable[Path], root: Path = ROOT, longest: int = LONGEST) -> list[tuple[Line, Line, int]]:
    """Runs of `longest` or more lines that stand in two places: where each begins, and how many lines."""
    places: dict[tuple[str, ...], list[tuple[list[Line], int]]] = {}
    for file in files:
        for run in code(file, str(file.relative_to(root))):
            for at in range(len(run) - longest + 1):
                places.setdefault(tuple(line.text for line in run[at : at + longest]), []).append((run, at))
    found: list[tuple[Line, Line, int]] = []
    for same in places.values():
        for (run, a), (other, b) in ((same[0], second) for second in same[1:]):
            if not (a and b and run[a - 1].text == other[b - 1].text):  # else the run before this one has it
                alike = takewhile(lambda pair: pair[0].text == pair[1].text, zip(run[a:], other[b:], strict=False))
                found.append((run[a], other[b], len(list(alike))))
    return sorted(found, key=lambda pair: (-pair[2], pair[0].file, pair[0].number))


def drawing(root: Path = ROOT) -> str:
    """Markdown: a table of wings with a line of each, and their arrows as Mermaid graphs."""
    files = modules(root)
    graph = gathered(arrows(files))
    wings = sorted(
        (name for name in graph if name in files and files[name].name == "__init__.py"),
        key=lambda name: (-FLOORS[name.split(".")[0]], name),
    )
    out = ["| folder | what it does |", "|---|---|"]
    out += [f"| `{name.replace('.', '/')}/` | {first_line(files[name])} |" for name in wings]
    for package in DRAWN:
        inside = {
            name: {other for other in others if other.startswith(package + ".")}
            for name, others in graph.items()
            if name.startswith(package + ".")
        }
        out += [
            *("", f"Who imports whom in `{package}/`; arrows that follow from others are left out:", ""),
            *("```mermaid", "graph TD"),
            *(f"  {_node(name)}[{_node(name)}/]" for name in sorted(inside) if name in wings),
            *(
                f"  {_node(name)} --> {' & '.join(map(_node, sorted(others)))}"
                for name, others in sorted(reduced(inside).items())
                if others
            ),
            "```",
        ]
    return "\n".join(out)


def _node(name: str) -> str:
    """A Mermaid name: the room's; `end` and the like, which Mermaid keeps for itself, get a line behind them."""
    room = name.partition(".")[2]
    return room + "_" * (room in ("class", "click", "default", "end", "graph", "style", "subgraph"))


def first_line(file: Path) -> str:
    """The first line of a file's docstring; empty without one."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def written(text: str, root: Path = ROOT) -> str:
    """`text` with a new drawing between its markers. Raises ValueError where they are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the file lacks the markers {BEGIN} and {END}; add them where the drawing belongs")
    return f"{before}{begin}\n{drawing(root)}\n{end}{after}"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to draw, or what to look for."""

    write: Path | None = None
    """A file whose drawing, between its markers, is replaced; without one it is printed."""
    duplicates: bool = False
    """Print the lines that stand in two places instead."""


def main(options: Options) -> None:
    """Draw, or look."""
    if options.duplicates:
        for first, second, length in duplicates(modules().values()):
            print(f"{length} lines: {first.file}:{first.number} and {second.file}:{second.number}: {first.text}")
    elif options.write is None:
        print(drawing())
    else:
        try:
            options.write.write_text(written(options.write.read_text(encoding="utf-8")), encoding="utf-8")
        except (OSError, ValueError) as error:
            raise SystemExit(f"bench.house: {options.write}: {error}") from None


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m bench.house", description=__doc__))
