"""The house as docs/house.md draws it: arrows one way, no circle, nothing in two places, typed, one version."""

import io
import re
import tokenize
import tomllib
from pathlib import Path

import pytest

import engine
from bench import house

ROOT = Path(__file__).resolve().parents[1]
FILES = house.modules()
ARROWS = house.arrows(FILES)


def test_imports_point_down_or_stay_in_their_package():
    assert house.upward(ARROWS) == []


def test_no_modules_import_each_other_in_a_circle():
    """Type-only imports and those inside functions count too."""
    assert house.circles(ARROWS) == []


def test_no_wings_import_each_other_in_a_circle():
    assert house.circles(house.gathered(ARROWS)) == []


def test_nothing_stands_in_two_places():
    found = house.duplicates(FILES.values())
    assert not found, "\n".join(
        f"{n} lines: {a.file}:{a.number} and {b.file}:{b.number}, from {a.text!r}" for a, b, n in found
    )


def test_the_drawing_is_that_of_the_code():
    text = (ROOT / "docs/house.md").read_text(encoding="utf-8")
    assert house.written(text) == text, "give `python -m bench.house --write docs/house.md`"


def test_every_wing_says_what_it_does():
    said = {name: house.first_line(file) for name, file in FILES.items() if file.name == "__init__.py"}
    assert {"engine.step", "curate.models", "kernels.native"} <= said.keys()
    assert not [name for name, line in said.items() if not line.endswith((".", ":"))]


def prose(file: Path) -> str:
    """Comments and docstrings."""
    tokens = tokenize.generate_tokens(io.StringIO(file.read_text(encoding="utf-8")).readline)
    return "\n".join(t.string for t in tokens if t.type == tokenize.COMMENT or t.string.startswith('"""'))


def astray(text: str) -> list[str]:
    """Modules and source files of the house that `text` names and that are not there."""
    packages = "|".join(sorted({name.partition(".")[0] for name in FILES}))
    dotted = re.findall(rf"(?<![\w./-])((?:{packages})(?:\.[a-z_]+)+)\b(?![/(])", text)
    paths = re.findall(rf"(?<![\w./-])((?:{packages}|csrc|tests)/[\w./]+\.(?:py|cpp|h))\b", text)
    known = {".".join(parts[:2]) for name in FILES for parts in [name.split(".")]}
    wrong = [
        name for name in dotted if ".".join(name.split(".")[:2]) not in known and not name.endswith((".py", ".md"))
    ]
    return wrong + [path for path in paths if not (ROOT / path).exists()]


def test_no_comment_names_a_module_that_is_not_there():
    assert astray("see engine.slots and kernels/native_step.py, engine.step.slots, bench/host.py") == [
        "engine.slots",
        "kernels/native_step.py",
    ]
    sources = {file: prose(file) for file in FILES.values()}
    sources |= {file: file.read_text(encoding="utf-8") for file in (ROOT / "csrc").rglob("*.[ch]*")}
    assert not {str(file.relative_to(ROOT)): found for file, text in sources.items() if (found := astray(text))}


def test_every_package_is_typed_and_has_the_version_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert engine.__version__ == project["version"]
    assert not [package for package in house.FLOORS if not (ROOT / package / "py.typed").is_file()]


@pytest.fixture
def elsewhere(tmp_path):
    """A house of its own, as a function of its files."""

    def build(files: dict[str, str]) -> Path:
        for package in house.FLOORS:
            (tmp_path / package).mkdir(exist_ok=True)
            (tmp_path / package / "__init__.py").write_text(f'"""{package}."""\n')
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return build


def test_a_circle_is_found_wherever_its_imports_stand(elsewhere):
    files = house.modules(
        elsewhere(
            {
                "engine/a.py": "from engine import b\n",
                "engine/b.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from engine.c import x\n",
                "engine/c.py": "def x():\n    import engine.a\n",
                "engine/d.py": "import engine.a\nimport json\n",
                "kernels/e.py": "from engine.a import y\n",
                "train/f.py": "from curate import g\nfrom kernels import e\n",
                "curate/g.py": "",
            }
        )
    )
    graph = house.arrows(files)
    assert house.circles(graph) == [["engine.a", "engine.b", "engine.c"]]
    assert house.upward(graph) == ["kernels.e -> engine.a", "train.f -> curate.g"]


def test_wings_make_a_circle_where_their_modules_make_none(elsewhere):
    root = elsewhere(
        {
            "engine/one/__init__.py": "",
            "engine/two/__init__.py": "",
            "engine/one/a.py": "import engine.two.b\n",
            "engine/two/b.py": "",
            "engine/two/c.py": "import engine.one.d\n",
            "engine/one/d.py": "",
        }
    )
    graph = house.arrows(house.modules(root))
    assert house.circles(graph) == [] and house.circles(house.gathered(graph)) == [["engine.one", "engine.two"]]


def test_an_arrow_that_follows_from_others_is_left_out():
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert house.reduced(graph) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_a_drawing_is_replaced_between_its_markers(elsewhere):
    root = elsewhere({"engine/step/__init__.py": '"""One step."""\n', "engine/a.py": "from engine import step\n"})
    text = house.written(f"# Title\n{house.BEGIN}\nwhat was\n{house.END}\nrest", root)
    assert text.startswith("# Title\n") and text.endswith("\nrest") and "what was" not in text
    assert "| `engine/step/` | One step. |" in text and "  step[step/]\n  a --> step\n" in text
    assert house.written(text, root) == text
    with pytest.raises(ValueError, match="lacks the markers"):
        house.written("# Title", root)


SEVEN = "".join(f"    value_{i} = {i}  # why {{0}}\n" for i in range(7))


@pytest.mark.parametrize("cut, found", [([], [7]), (["    other = 1\n"], []), (["    # a comment\n", "\n"], [7])])
def test_lines_that_stand_in_two_places_are_found(elsewhere, cut, found):
    """Comments, blank lines and indentation do not count."""
    lines = SEVEN.splitlines(keepends=True)
    here = "def f():\n" + SEVEN.format("here")
    there = "class G:\n  def g():\n" + "".join("  " + line for line in [*lines[:4], *cut, *lines[4:]]).format("there")
    root = elsewhere({"engine/a.py": here, "engine/b.py": there})
    pairs = house.duplicates(house.modules(root).values(), root)
    assert [length for *_, length in pairs] == found
    assert all((a.file, a.number, b.file, b.number) == ("engine/a.py", 2, "engine/b.py", 3) for a, b, _ in pairs)


def test_signatures_imports_docstrings_and_lone_arguments_are_nobodys_lines(elsewhere):
    text = (
        "from json import (\n    dump,\n    dumps,\n    load,\n    loads,\n    JSONDecodeError,\n    JSONEncoder,\n)\n"
        'def f(\n    a,\n    b,\n    c,\n    d,\n    e,\n    g,\n):\n    """1\n    2\n    3\n    4\n    5\n    6"""\n'
        "    return dump(\n        a,\n        b,\n        c,\n        d,\n        e.g,\n        0,\n    )\n"
    )
    root = elsewhere({"engine/a.py": text, "engine/b.py": text})
    assert house.duplicates(house.modules(root).values(), root) == []


def test_one_function_writes_lines_that_keep_their_characters():
    """Others may end a line to a reader (U+2028); `template_program` has the filter `tojson`, `results` a message."""
    keeping = {name for name, file in FILES.items() if "ensure_ascii=False" in file.read_text(encoding="utf-8")}
    assert keeping == {"engine.command.append_log", "engine.command.results"}
