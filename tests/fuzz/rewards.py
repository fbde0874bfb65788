"""Targets: the folder of a reward model, and what is scored."""

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from engine import Engine
from tests.fuzz import checkpoint
from tests.fuzz.contract import promise
from tests.fuzz.target import Target
from tests.fuzz.values import INPUTS, FileCase, edited, edits, file_bytes, files

SCORE = INPUTS["score"]
CONFIG = checkpoint.read("config.json") | {"architectures": ["Qwen2ForProcessRewardModel"], "num_labels": 2}
_EXTRA = [(name,) for name in INPUTS["reward_fields"]]
_HEAD = {"score.0.weight": (16, 16), "score.0.bias": (16,), "score.2.weight": (2, 16), "score.2.bias": (2,)}


@cache
def folder() -> Path:
    """The tiny checkpoint with a process reward model's head."""
    target = checkpoint.scratch() / "reward"
    target.mkdir(exist_ok=True)
    for file in checkpoint.folder().iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    tensors = load_file(target / "model.safetensors") | {name: torch.ones(size) for name, size in _HEAD.items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_text(json.dumps(CONFIG))
    return target


def _open_and_score(directory: Path) -> None:
    with checkpoint.open_engine(directory) as engine:
        engine.score("1 + 1?", ["2\n"])


def _config(case: FileCase) -> None:
    path = folder() / "config.json"
    path.write_bytes(file_bytes(CONFIG, case))
    try:
        promise(_open_and_score, folder())
    finally:
        path.write_text(json.dumps(CONFIG))


@cache
def _reward() -> Engine:
    return checkpoint.open_engine(folder())


def _score(prompt: Any, values: Any) -> None:
    """By a reward model, and by a language model's probabilities."""
    if not isinstance(values, dict) or values.keys() - SCORE.keys():
        return
    for engine in (_reward(), checkpoint.engine()):
        promise(partial(engine.score, prompt, **{"steps": ["x"], **values}))


def _scored(case: Any) -> None:
    try:
        values = json.loads(edited(SCORE, case))
    except (ValueError, RecursionError):
        return
    _score("1 + 1?", values)


def _objects(case: tuple[str, dict[str, str]]) -> None:
    _score(eval(case[0]), {name: eval(text) for name, text in case[1].items()})


_words = st.sampled_from(INPUTS["objects"])

TARGETS = (
    Target("reward model", files(CONFIG, _EXTRA), _config),
    Target("scores", edits(SCORE, most=3), _scored, quick=20),
    Target("scores in Python", st.tuples(_words, st.dictionaries(st.sampled_from(list(SCORE)), _words)), _objects),
)
