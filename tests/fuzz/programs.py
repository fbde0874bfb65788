"""Targets: whole programs, by their exit code and what they write to standard error. Slow, and so not run in CI."""

import json
import resource
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz import checkpoint, model_files, runs
from tests.fuzz.contract import Broken, check_line
from tests.fuzz.target import Target
from tests.fuzz.values import INPUTS, file_bytes, files, texts
from tests.train.support import write_config, write_tokens

_CPU_S, _LONGEST_S = 25, 280.0
"""Seconds of processor time, of which starting takes half on a slow machine, and of wall time."""


def _program(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *(text.replace("\0", "") for text in arguments)]
    try:
        ended = subprocess.run(
            command, capture_output=True, timeout=_LONGEST_S, check=False, stdin=subprocess.DEVNULL, preexec_fn=_bound
        )
    except subprocess.TimeoutExpired:
        raise Broken(f"{command}: no end after {_LONGEST_S} s") from None
    said = ended.stderr.decode("utf-8", "backslashreplace")
    if ended.returncode not in (0, 1, 2) or "Traceback" in said:
        raise Broken(f"{command}: exit code {ended.returncode}\n{said[-1500:]}")
    if ended.returncode:
        check_line(said.strip().splitlines()[-1])


def _bound() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))


def _model(case: tuple[str, Any]) -> None:
    name, one = case
    with checkpoint.altered(name, file_bytes(model_files.FILES[name], one)) as directory:
        _program("engine.generate", "--model", str(directory), "--prompt", "1 + 1?", "--max-tokens", "2")


def _line(case: tuple[int, Any, str]) -> None:
    path, output = checkpoint.scratch() / "lines.jsonl", checkpoint.scratch() / "output.jsonl"
    path.write_bytes(file_bytes(INPUTS["lines"][case[0]], case[1]))
    files = ("--input", str(path), "--output", str(output), "--resume", f"--thinking-format={case[2]}")
    _program("engine.generate", "--model", str(checkpoint.folder()), *files)


def _evaluation(case: tuple[str, Any]) -> None:
    command, one = case
    folder = runs.damaged(one)
    _program("bench.evaluate", command, str(folder))


@cache
def _trained() -> Path:
    """The configuration of a run that has ended."""
    place = checkpoint.scratch()
    data = write_tokens(place / "tokens.jsonl", [8, 9, 10, 11])
    config = write_config(place / "run.yaml", checkpoint.folder(), data, checkpoint={"every": 1, "keep": 2}, epochs=2)
    _program("train.sft", str(config))
    return config


def _training(case: Any) -> None:
    run = _trained().with_suffix("")
    marker = max(run.glob("checkpoints/step-*/complete.json"))
    before = marker.read_bytes()
    marker.write_bytes(file_bytes(json.loads(before), case))
    try:
        _program("train.sft", str(_trained()), "epochs=3")
    finally:
        for later in run.glob("checkpoints/step-*"):
            if later > marker.parent:
                shutil.rmtree(later)
        marker.write_bytes(before)


def _training_cases() -> st.SearchStrategy[Any]:
    marker = max(_trained().with_suffix("").glob("checkpoints/step-*/complete.json"))
    return files(json.loads(marker.read_text()))


def _curation(case: Any) -> None:
    path = checkpoint.scratch() / "curation.yaml"
    what = {**INPUTS["curation"], "run": str(checkpoint.scratch() / "curated")}
    path.write_bytes(file_bytes(what, case))
    _program("curate.run", str(path), "--stage", "collect")


_models = st.sampled_from(sorted(model_files.FILES)).flatmap(
    lambda n: st.tuples(st.just(n), files(model_files.FILES[n]))
)
_lines = st.integers(0, len(INPUTS["lines"]) - 1).flatmap(
    lambda i: st.tuples(st.just(i), files(INPUTS["lines"][i]), texts)
)
_commands = st.sampled_from(("status", "grade", "report", "browse"))

TARGETS = (
    Target("program: model folder", _models, _model, quick=0),
    Target("program: lines", _lines, _line, quick=0),
    Target("program: evaluation", st.tuples(_commands, runs.log_cases()), _evaluation, quick=0),
    Target("program: training", st.deferred(_training_cases), _training, quick=0),
    Target("program: curation", files(INPUTS["curation"]), _curation, quick=0),
)
