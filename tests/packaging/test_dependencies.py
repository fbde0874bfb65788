"""What is imported is what pyproject.toml asks for: in the core install, or in the extra of who needs it."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

from bench import house

PROJECT = tomllib.loads((house.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    "kernels": (),
    "engine": (),
    "engine.serve": ("server",),
    "train": ("train", "tensorboard", "wandb"),
    "curate": ("curate", "hub", "ray"),
    "bench": ("bench", "train", "tensorboard", "wandb"),
    "bench.paper": ("bench", "curate", "hub", "ray", "train", "tensorboard", "wandb"),
}
"""What may be installed beside the core where a package runs."""
NAMES = {"yaml": "pyyaml", "prometheus_client": "prometheus-client"}
"""Distributions that are called otherwise than what they hold."""
OWN_ENVIRONMENT = {"flash_attn", "transformers", "vllm"}
"""Used where they are found: a kernel of flash-attn, and peers, which run in an interpreter that is named."""


def asked(*extras: str) -> set[str]:
    lines = [*PROJECT["dependencies"], *(line for name in extras for line in PROJECT["optional-dependencies"][name])]
    return {re.split(r"[\s<>=;\[]", line)[0].lower() for line in lines}


def third_party(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            found.add(node.module.partition(".")[0])
    return {name for name in found if name not in sys.stdlib_module_names and name not in house.FLOORS}


@pytest.mark.parametrize("package", EXTRAS)
def test_what_a_package_imports_is_asked_for(package):
    """Its commands and what they import of ours; of the kernels, which have no command, every file."""
    files = house.modules()
    graph = house.arrows(files)
    # What only who changes the code runs, with everything installed.
    apart = ("bench.micro", "bench.reference", *(name for name in EXTRAS if name.startswith(f"{package}.")))
    mine = [name for name in files if f"{name}.".startswith(f"{package}.") and not name.startswith(apart)]
    commands = [name for name in mine if 'if __name__ == "__main__"' in files[name].read_text(encoding="utf-8")]
    starts = [package, *commands] if commands else mine
    for name in {*starts}.union(*(house.reached(graph, name) for name in starts)):
        needed = {NAMES.get(found, found) for found in third_party(files[name]) - OWN_ENVIRONMENT}
        assert needed <= asked(*EXTRAS[package]), f"{name}, reached from {package}/"


def test_every_extra_is_some_packages():
    assert set(PROJECT["optional-dependencies"]) == {*(extra for names in EXTRAS.values() for extra in names), "test"}
