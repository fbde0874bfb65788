"""Bad values, and strategies that put them into something good: a case is a short list of edits, which can be read."""

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path as File
from typing import Any

import yaml
from hypothesis import strategies as st


class Raw(str):
    """JSON text that stands where it is put, also where it is no JSON at all."""


INPUTS: dict[str, Any] = yaml.safe_load(File(__file__).with_name("inputs.yaml").read_text())
"""Good inputs by name, to be spoiled."""
Path = tuple[str | int, ...]
Edit = tuple[Path, str, str]
"""Where; `set`, `delete` or `twice` (the key a second time); the JSON text to put there."""
Cut = tuple[str, int, int]
"""`end`, `flip`, `drop` or `zero`; the place, in 1/10,000 of the file; how many bytes, or the mask."""

LONG = 100_000
NUMBERS = (
    *("0", "-1", "1", "2", "3", "7", "-0.0", "0.5", "1.5", "1e-320", "1e308", "-1e308", "1e999", "NaN", "-Infinity"),
    *("255", "65536", "2147483647", "2147483648", "4294967296", "9223372036854775807", "9223372036854775808"),
    *("-9223372036854775809", "1" + "0" * 400, "9" * 5000),
)
STRINGS = (
    *("", " ", "a", "1", "²", "NaN", "null", "..", "/dev/zero", "../x", "a\nb", "\0", "\x1b[31mred\x1b[0m", "\x7f\x9b"),
    *("\ud800", "\udfff\ud800", "é", "\u202e\u2028", "\U0001f600", "<|im_start|>", "<think>", "{{", "%s%n", "x" * LONG),
    *("9" * LONG, "\0" * LONG, "\x1b" * 2000, "a b " * 20_000),
)
CONTAINERS = (
    *(
        "[]",
        "{}",
        "[1]",
        "[[]]",
        "[null]",
        '[""]',
        '{"": 0}',
        '{"\\u0000": 1}',
        '{"a": {"a": 1}}',
        "true",
        "false",
        "null",
    ),
    *("[" * LONG, "[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900, "[" + "0," * LONG + "0]", "", "}", '"'),
)
texts = st.sampled_from(STRINGS) | st.text(max_size=12)
fragments = (
    st.sampled_from(NUMBERS)
    | st.sampled_from(CONTAINERS)
    | texts.map(json.dumps)
    | st.integers(-300, 300).map(str)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    ).map(json.dumps)
)
"""JSON texts that may stand for a value."""


def dump(value: Any) -> str:
    """JSON of a tree that holds `Raw`s."""
    if isinstance(value, Raw):
        return value
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {dump(item)}" for key, item in value.items()) + "}"
    return "[" + ", ".join(map(dump, value)) + "]" if isinstance(value, list) else json.dumps(value)


def edited(base: Any, edits: Sequence[Edit]) -> str:
    """JSON text of `base` under `edits`; one whose place is gone does nothing."""
    root = [copy.deepcopy(base)]
    for path, what, text in edits:
        node: Any = root
        *parents, last = (0, *path)
        for key in parents:
            known = range(len(node)) if isinstance(node, list) else node if isinstance(node, dict) else ()
            node = node[key] if key in known else None
        if isinstance(node, list) and isinstance(last, int) and last < len(node):
            node[last : last + 1] = [] if what == "delete" and path else [Raw(text)]
        elif isinstance(node, dict) and what == "delete":
            node.pop(last, None)
        elif isinstance(node, dict):
            before = f"{dump(node[last])}, {json.dumps(last)}: " if what == "twice" and last in node else ""
            node[last] = Raw(before + text)
    return dump(root[0])


def _paths(value: Any, path: Path = ()) -> Iterator[Path]:
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(inside)[:40]:
        yield from _paths(item, (*path, key))


def edits(base: Any, extra: Sequence[Path] = (), most: int = 3) -> st.SearchStrategy[tuple[Edit, ...]]:
    """Edits of `base`; `extra` are places that it does not have and that a reader looks at."""
    places = st.sampled_from([*_paths(base), *extra])
    one = st.tuples(places, st.sampled_from(("set", "set", "set", "set", "delete", "twice")), fragments)
    return st.lists(one, min_size=1, max_size=most).map(tuple)


cuts: st.SearchStrategy[tuple[Cut, ...]] = st.lists(
    st.tuples(st.sampled_from(("end", "flip", "drop", "zero")), st.integers(0, 9_999), st.integers(1, 255)), max_size=2
).map(tuple)


def cut(data: bytes, cuts: Sequence[Cut]) -> bytes:
    """`data` with bytes lost or changed."""
    for what, place, many in cuts:
        at = len(data) * place // 10_000
        match what:
            case "end":
                data = data[:at]
            case "flip":
                data = data[:at] + bytes(byte ^ many for byte in data[at : at + 1]) + data[at + 1 :]
            case "drop":
                data = data[:at] + data[at + many :]
            case "zero":
                data = data[:at] + bytes(len(data[at : at + many])) + data[at + many :]
    return data


FileCase = tuple[tuple[Edit, ...], tuple[Cut, ...]]


def files(base: Any, extra: Sequence[Path] = ()) -> st.SearchStrategy[FileCase]:
    """Cases of a JSON file: mostly edits, now and then lost bytes."""
    none: tuple[()] = ()
    return st.tuples(edits(base, extra), st.just(none)) | st.tuples(edits(base, extra) | st.just(none), cuts)


def file_bytes(base: Any, case: FileCase) -> bytes:
    """What the file of a case holds."""
    return cut(edited(base, case[0]).encode("utf-8", "surrogatepass"), case[1])
