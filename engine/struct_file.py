"""Configuration files: YAML made into a checked structure; what cannot be used is named with its file and setting."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from engine.errors import InputError, shown
from engine.input_file import read_regular
from engine.struct_error import explained

T = TypeVar("T")
_MOST_BYTES = 1 << 17
"""Of a configuration file; of YAML that is a list of digits, a second reads some 50,000 bytes."""


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key given twice, of which the last would silently win, and whole numbers beyond 64 bits, and
    reads 1e-5 as a number."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The mapping as written, before `<<` merges others into it. Raises yaml.YAMLError naming key and line."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value!r} is given twice")
            seen.add(str(key.value))
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """Raises yaml.YAMLError naming number and line; what computes with them would overflow."""
        if len(node.value) > 80 or not -(2**63) <= (value := super().construct_yaml_int(node)) < 2**63:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {shown(node.value)} is beyond 64 bits")
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_struct(path: str | Path, kind: type[T], overrides: Iterable[str] = ()) -> T:
    """The structure that a YAML file holds under `overrides`, `section.name=value` each, the values YAML.

    Raises InputError, naming file and setting, for an unknown name, a wrong type or a missing file.
    """
    try:
        tree = _parsed(read_regular(Path(path), _MOST_BYTES), str(path))
    except OSError as error:
        raise InputError(f"{path}: cannot read the configuration: {error.strerror}") from error
    if not isinstance(tree, dict):
        raise InputError(f"{path}: the configuration must be a mapping, not {type(tree).__name__}")
    for override in overrides:
        name, equals, value = override.partition("=")
        if not equals or not all(name.split(".")):
            raise InputError(f"override {override!r} must look like section.name=value")
        *parents, leaf = name.split(".")
        node = tree
        for parent in parents:
            if not isinstance(node.get(parent), dict):
                node[parent] = {}
            node = node[parent]
        node[leaf] = _parsed(value, f"override {override!r}")
    try:
        return to_struct(tree, kind)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def to_struct(tree: Any, kind: type[T]) -> T:
    """The structure that plain values are. Raises InputError naming the setting."""
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise InputError(explained(error, tree, kind)) from error
    except RecursionError as error:
        raise InputError("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise InputError(f"{shown(error.object)} is not valid Unicode (a lone surrogate)") from error


def _parsed(text: str | bytes, name: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except (
        yaml.YAMLError,
        ValueError,
        LookupError,
        AttributeError,
        RecursionError,
    ) as error:
        raise InputError(f"{name}: not YAML: {' '.join(str(error).split()) or type(error).__name__}") from error
