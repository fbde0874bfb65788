"""A wheel that is built here, installed outside the checkout and run there: what it needs travels with it."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import engine

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("engine", "kernels", "train", "curate", "bench")
QUESTION = "Count up from 18 in steps of 7. Which is the first number after 18 that leaves 1 when divided by 5?"

pytest.importorskip("scikit_build_core", reason="the build back end is not here: pip install scikit-build-core")


def pip(*arguments: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def build(folder: Path, *settings: str) -> Path:
    pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", *settings, "--wheel-dir", folder, ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` beside the installed copy. -S: the checkout's own editable install comes before any path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("S1_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(site), str(Path(torch.__file__).parents[1])])
    command = [sys.executable, "-S", *arguments]
    return subprocess.run(command, cwd=site.parent, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without the native library, which takes a minute to compile: the torch definitions run."""
    return build(tmp_path_factory.mktemp("wheel"), "--config-settings", "wheel.cmake=false")


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("elsewhere") / "site"
    pip("install", "--quiet", "--no-deps", "--no-compile", "--target", folder, wheel)
    return folder


def tracked() -> list[str]:
    """Files of the packages that belong into a wheel; where this copy has no history, all that are there."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, capture_output=True, text=True, check=True)
        return [name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*"))
    return [str(f.relative_to(ROOT)) for f in files if f.is_file() and f.suffix not in (".pyc", ".so")]


def test_every_file_of_the_packages_and_the_model_are_in_it(wheel):
    """Recipes, prompts, tables and grids too."""
    names = set(zipfile.ZipFile(wheel).namelist())
    assert set(tracked()) <= names
    model = {f"engine/s1-nano/{file.name}" for file in (ROOT / "models/s1-nano").iterdir()}
    assert len(model) > 5 and model <= names
    assert {f"{package}/py.typed" for package in PACKAGES} <= names


def test_the_installed_engine_answers_with_the_model_inside_it(site):
    done = run(site, "-m", "engine.generate", "--prompt", QUESTION, "--thinking-extensions", "2", "--max-tokens", "600")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("Answer: 46")


def test_what_is_installed_is_the_copy_and_says_its_version(site):
    lines = (
        "import engine, kernels.gemm_choices, curate.selection.domains, curate.models.prompt",
        "from engine.model.embedded import EMBEDDED",
        "print(engine.__file__, engine.__version__, EMBEDDED, kernels.gemm_choices.TABLE, sep='\\n')",
        "print(curate.models.prompt.FOLDER)",
        "from engine.model.checkpoint import resolve",
        "print(resolve('s1-nano'), resolve('models/s1-nano'), sep='\\n')",
    )
    done = run(site, "-c", "\n".join(lines))
    assert done.returncode == 0, done.stderr
    file, version, *data = done.stdout.splitlines()
    assert file == str(site / "engine/__init__.py") and version == engine.__version__
    assert data[0] == data[-2] == data[-1] == str(site / "engine/s1-nano"), "by either of its names"
    assert all(Path(name).exists() and Path(name).is_relative_to(site) for name in data)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler is here")
@pytest.mark.timeout(900)
def test_a_wheel_with_the_native_library_runs_it(tmp_path):
    wheel = build(tmp_path / "wheel", "--config-settings", f"build-dir={tmp_path / 'build'}")
    pip("install", "--quiet", "--no-deps", "--no-compile", "--target", tmp_path / "site", wheel)
    done = run(tmp_path / "site", "-c", "from kernels.native import library; print(library.LOADED, library.REASON)")
    assert done.stdout.startswith("True"), done.stdout + done.stderr
    done = run(tmp_path / "site", "-m", "engine.generate", "--prompt", QUESTION, "--max-tokens", "600")
    assert done.returncode == 0 and done.stdout.rstrip().endswith("Answer: not found"), done.stdout + done.stderr
