"""Configurations that cannot be used: the one line that the command says names the setting, its value and the way out,
before anything has been asked or written."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from curate.run import main

NANO = str(Path(__file__).resolve().parents[2] / "models" / "s1-nano")
SERVED = {"model": {"model": "m", "base_url": "http://127.0.0.1:9/v1"}}
GSM8K = {"adapter": "GSM8K", "path": "questions.jsonl"}
WHOLE = {"trace": SERVED, "attempt": {"models": [SERVED]}, "format": {"tokenizer": NANO}}


def source(**changes):
    return {"collect": {"sources": [GSM8K | changes]}}


def local(**fields):
    return {"trace": {"model": {"model": f"engine:{NANO}", **fields}}}


def sampled(**fields):
    return {"trace": {"model": {"model": f"engine:{NANO}"}, "sampling": fields}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        # Sources: which, and where they are.
        (source(adapter="GSM-8K"), "collect.sources[0].adapter is 'GSM-8K'; did you mean 'GSM8K'? known: "),
        (
            source(path="nowhere.jsonl"),
            "nowhere.jsonl: no such file; correct",
        ),
        (source(path=None), "collect.sources[0].path is None: expected `str | list`, got `null`"),
        (
            source(adapter="questions", kind="numbr"),
            "collect.sources[0]: kind is 'numbr'; did you mean 'number'? known: ",
        ),
        ({"collect": {}}, "collect.sources is missing"),
        ({"collect": {"sources": [GSM8K, GSM8K]}}, "two sources are called 'GSM8K'; give one of them another name"),
        # Models.
        (
            {"trace": {"model": {"model": "m"}}},
            "trace.model: model 'm': base_url is missing; an engine in process is written \"engine:DIR\"",
        ),
        (
            {"grade": {"judge": {"model": {"model": "m"}}}},
            "grade.judge.model: model 'm': base_url is missing; an engine",
        ),
        (
            {"domain": {"model": {"base_url": "http://x/v1"}}},
            'domain.model: model is None; give "engine:DIR", or the name',
        ),
        (local(dtype="bf16"), "trace.model: dtype is 'bf16'; give one of auto, float32, bfloat16, float16"),
        (local(max_seqs=3), "trace.model: engine: unknown field 'max_seqs'; known: adapter, "),
        (
            {"trace": {"model": {"model": "engine:./nowhere"}}},
            "model is 'engine:./nowhere': there is no such folder; corr",
        ),
        (
            WHOLE | {"attempt": {"models": [SERVED, SERVED]}},
            "attempt.models: two models are called 'm'; give one of them another name: in model",
        ),
        ({"trace": {"model": "engine:x"}}, "trace.model is 'engine:x': expected `mapping`, got `str`"),
        (
            {"domain": {"sampling": {"max_tokens": 9}}},
            "domain.sampling is given and domain.model is not; give the model",
        ),
        (
            {"trace": {"model": {"model": "engine:models/gone"}}},
            "model is 'engine:models/gone': there is no such folder; correct the path, or give a hub id",
        ),
        ({"trace": {"model": {"model": "engine:modell"}}}, "model is 'engine:modell': there is no such folder"),
        (local(adapter="nowhere"), "is 'nowhere': there is no such folder; correct the path"),
        (local(thinking_format="qwen4"), "trace.model: thinking_format is 'qwen4'; give auto, "),
        (
            {"trace": {"model": SERVED["model"] | {"base_url": "127.0.0.1:9/v1"}}},
            "base_url is '127.0.0.1:9/v1'; give http://HOST/v1 or https://HOST/v1",
        ),
        (
            WHOLE | {"attempt": {"models": [{"model": SERVED["model"] | {"api_key_env": "NO_SUCH_KEY_1"}}]}},
            "api_key_env names NO_SUCH_KEY_1, which is not set; export it or leave it out",
        ),
        # How responses are drawn.
        (sampled(top_p=2), "trace.sampling.top_p is 2: expected `float` <= 1.0"),
        (sampled(temperature=-1), "trace.sampling.temperature is -1: expected `float` >= 0.0"),
        (sampled(max_tokens=0), "trace.sampling.max_tokens is 0: expected `int` >= 1"),
        (sampled(min_thinking_tokens=9, thinking_token_budget=8), "trace.sampling: min_thinking_tokens 9 is above"),
        (sampled(thinking_format="qwen4"), "trace.sampling: thinking_format is 'qwen4'; give auto, "),
        # Functions that judge.
        (
            WHOLE | source(adapter="questions", kind="python:no_such_module_2.check"),
            "python:no_such_module_2.check cannot be imported (ModuleNotFoundError",
        ),
        (
            WHOLE | source(adapter="questions", kind="python:json.no_such"),
            "python:json.no_such: module json has no function no_such; name a function of a module",
        ),
        # What the stages do.
        ({"seed": -1}, "seed is -1: expected `int` >= 0"),
        ({"run": " "}, "run is ' '; name the folder that the run writes"),
        (source(limit=-1), "collect.sources[0].limit is -1: expected `int` >= 1"),
        ({"select": {"mode": "papr"}}, "select.mode is 'papr'; did you mean 'paper'? known: 'diverse', 'full', "),
        ({"select": {"count": 0}}, "select.count is 0: expected `int` >= 1"),
        ({"decontaminate": {"rule": "score"}}, "decontaminate.rule is 'score'; did you mean 'scored'? known: 's1', "),
        (
            {"decontaminate": {"against": [{"name": "x"}]}},
            "decontaminate.against[0]: evaluation set x: give either path or",
        ),
        (
            {"decontaminate": {"against": [{"name": "x", "path": "gone.jsonl"}]}},
            "gone.jsonl: no such file; correct the path",
        ),
        # Names of sources that there are not; those of the defaults may be absent.
        (
            {"select": {"seed_sources": ["AIME", "AIMEE"]}},
            "select.seed_sources names 'AIMEE', which is no source; known: 'GSM8K'",
        ),
        (
            {"select": {"long_source": "GSM"}},
            "select.long_source names 'GSM', which is no source; did you mean 'GSM8K'? known: 'GSM8K'",
        ),
        (
            {"select": {"weight_sources": ["AIME", "GQPA"]}},
            "select.weight_sources names 'GQPA', which is no source; known",
        ),
        (
            {"quality": {"asy_exempt": ["AIMEs"]}},
            "quality.asy_exempt names 'AIMEs', which is no source; known: 'GSM8K'",
        ),
        # Sections, and what stands in them.
        ({"run": None}, "run is None: expected `str`, got `null`"),
        ({"atempt": {}}, "unknown setting atempt; did you mean attempt?"),
        (
            WHOLE | {"trace": {**SERVED, "sampling": {"max_token": 9}}},
            "trace.sampling.max_token; did you mean max_tokens?",
        ),
        (WHOLE | {"trace": None}, "attempt needs trace, and format needs both; give them, or stop earlier"),
        (WHOLE | {"format": {}}, "format.tokenizer is missing"),
        (
            WHOLE | {"format": {"tokenizer": "models"}},
            "models: no tokenizer.json; name the folder of a model's tokenizer",
        ),
        (
            WHOLE | {"select": {"tokenizer": "models"}},
            "models: no tokenizer.json; name the folder of a model's tokenizer",
        ),
    ],
)
def test_one_line_lets_one_mend_it(change, message, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("questions.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": "#### 2"}) + "\n")
    Path("models").mkdir()
    tree = {"run": "run", "collect": {"sources": [GSM8K]}} | change
    Path("config.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.setattr(sys, "argv", ["curate.run", "config.yaml"])
    assert main() == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1, said
    assert not list(Path("run").glob("*/manifest.json")), "a stage ran before the fault was told"


def test_names_of_the_defaults_may_be_absent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("questions.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": "#### 2"}) + "\n")
    tree = {"run": "run", "select": {"seed_sources": ["AIME", "GSM8K"], "long_source": "MATH"}}
    Path("config.yaml").write_text(yaml.safe_dump(tree | {"collect": {"sources": [GSM8K]}}))
    monkeypatch.setattr(sys, "argv", ["curate.run", "config.yaml"])
    assert main() == 0
