"""docs/your_own_model.md from top to bottom, on s1-nano and a few of its questions: what a newcomer copies must run."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from curate.families.distinct import draw_distinct

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/your_own_model.md").read_text(encoding="utf-8")
FAMILIES = ("chains", "residues", "sequences")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("own")
    (place / "model").symlink_to(ROOT / "models/s1-nano")
    for name, split, count in (("questions", "train", 60), ("test", "heldout", 8)):
        rows = [{"question": p.prompt, "answer": p.answer} for p in draw_distinct(split, 3, count, FAMILIES).problems]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in zip(re.findall(r"^`(\w+\.yaml)`:$", PAGE, re.MULTILINE), files(), strict=True):
        (place / name).write_text(text)
    return place


def files() -> list[str]:
    """The blocks that are whole files: they begin with a comment that says what they are for."""
    return [text for text in blocks("yaml") if text.startswith("# ")]


def test_the_files_of_the_page_are_the_examples(folder):
    found = {path.name: path.read_text() for path in folder.glob("*.yaml")}
    assert found.keys() == {"curate_own.yaml", "evaluate_own.yaml", "sft_own.yaml"}
    for name, text in found.items():
        assert text == (ROOT / "examples" / name).read_text(), f"{name}: the page and examples/ differ"


def test_the_pieces_of_files_are_yaml():
    assert all(isinstance(yaml.safe_load(text), dict) for text in blocks("yaml"))


def test_every_command_of_the_page_runs(folder):
    told = []
    for line in "".join(blocks("bash")).splitlines():
        python, *words = shlex.split(line)
        assert python == "python"
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        told.append(done.stdout + done.stderr)
    assert len(told) == 10
    made = ("before/report.md", "before/samples.html", "before/figures/own-accuracy.png", "own/report/report.html")
    made += ("own/format/train.jsonl", "own_sft/export/README.md", "own_sft/curves.png", "after/report.json")
    assert all((folder / "runs" / name).is_file() for name in made)
    assert "own_sft (after) less s1-nano (before)" in told[-1]
    trained = [json.loads(line) for line in (folder / "runs/own_sft/metrics.jsonl").read_text().splitlines()]
    assert trained[0]["heldout_loss"] > 0 and trained[-1]["heldout_loss"] > 0


def test_every_link_of_the_page_leads_somewhere():
    for path, anchor in re.findall(r"\]\((\w+\.md)(?:#([\w-]+))?\)", PAGE):
        text = (ROOT / "docs" / path).read_text(encoding="utf-8")
        heads = {
            re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.*)$", text, re.M)
        }
        assert not anchor or anchor in heads, f"{path} has no heading {anchor}"
