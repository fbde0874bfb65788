"""What CONTRIBUTING.md says is not forgotten: names that the code knows stand in the documents and in the suites."""

import ast
import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest

from bench.evaluation.tasks import TaskName, TaskSpec, load
from bench.house import ROOT, modules
from curate.sources import PAPER, AnySource, Source
from engine import InputError, SamplingParams, generate
from engine.command import arguments
from engine.thinking.plan import PRESETS
from tests.conformance import cases, lab, test_presets, test_random_scripts

DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PRESETS)
def test_every_thinking_format_is_tested_and_told(name):
    assert name in test_presets.FAMILIES or (name in lab.PRESETS and name in test_random_scripts.EVERY)
    assert name in test_presets.FAMILIES or name == "none" or name in cases.FORMATS
    assert f"`{name}`" in text_of("docs/budget_forcing.md").partition("## Formats")[2]
    assert name in Path(arguments.__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in get_args(TaskName) if name != "s1_nano"])
def test_every_task_can_be_loaded_and_is_told(name):
    with pytest.raises(InputError, match="nowhere"):
        load(TaskSpec(name=name, path="nowhere"))
    assert f"`{name}`" in text_of("docs/evaluation.md")


def adapters(of: type[Source] = Source) -> list[type[Source]]:
    """Every class that a configuration could name."""
    own = [child for child in of.__subclasses__() if child.__module__.startswith("curate.")]  # tests make some, too
    inner = [cls for child in own for cls in adapters(child)]
    return inner if "info" not in vars(of) and own else [of, *inner]


def test_every_question_source_can_be_named_and_is_told():
    known = get_args(AnySource)
    assert set(adapters()) == set(known) and set(PAPER) <= set(known)
    told = text_of("docs/curation.md")
    assert not [tag for cls in known if f"`{(tag := cls.__struct_config__.tag)}`" not in told]


def test_every_parameter_of_thinking_is_told():
    names = [field.name for field in fields(SamplingParams)]
    machine = names[names.index("thinking_format") :]
    told = text_of("docs/budget_forcing.md")
    assert len(machine) > 10 and not [name for name in machine if f"`{name}`" not in told]


def test_every_variable_of_the_environment_is_told():
    told = text_of("docs/environment.md")
    for file in modules().values():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and re.fullmatch(r"S1_[A-Z_]+", str(node.value)):
                assert f"`{node.value}`" in told, f"{file}:{node.lineno}"


def test_the_readmes_examples_print_what_it_says(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    readme = text_of("README.md")
    code, printed = re.search(r"```python\n(.*?)```\n\nprints\n\n```\n(.*?)```", readme, re.DOTALL).groups()
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith(printed.rstrip().removesuffix("..."))
    question, flags, shown = re.search(r'--prompt "(.*?)" (.*?)\n(.*?)\n1 request', readme, re.DOTALL).groups()
    assert generate.main(["--prompt", question, *flags.split()]) == 0
    assert capsys.readouterr().out.strip() == shown.partition("\n")[2].strip()


@pytest.mark.parametrize("file", DOCUMENTS, ids=lambda file: file.name)
def test_files_and_modules_that_documents_name_are_there(file):
    text = file.read_text(encoding="utf-8")
    for path in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (file.parent / path).exists(), path
    for path in re.findall(r"`((?:engine|kernels|csrc|train|curate|bench|tests|docs|models)/[\w./-]+)`", text):
        assert "NAME" in path or (ROOT / path).exists(), path
    for module in re.findall(r"python3? -m ((?:engine|train|curate|bench)[\w.]*)", text):
        place = ROOT.joinpath(*module.split("."))
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), module
