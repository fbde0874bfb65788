"""Grids, methods and the original harness's arguments: what they come to, and what is refused by name."""

from pathlib import Path

import msgspec
import pytest

from bench.evaluation import grid
from bench.evaluation.harness_arguments import parse
from engine import InputError, SamplingParams
from engine.command.jsonl import changed_params

GRIDS = sorted((Path(__file__).parents[2] / "bench" / "grids").glob("*.yaml"))
ONE = {"tasks": [{"name": "s1_nano"}], "methods": [{"method": "auto"}]}


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_committed_grids_load(file):
    loaded = grid.load(file)
    assert loaded.conditions() and grid.from_values(msgspec.to_builtins(loaded)) == loaded


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**ONE, "tasks": []}, r"tasks is \[\]: expected `list` of length >= 1"),
        ({**ONE, "methods": []}, r"methods is \[\]: expected"),
        ({**ONE, "tasks": [{"name": "aime26"}]}, "aime26"),
        ({**ONE, "tasks": [{"name": "s1_nano"}, {"name": "s1_nano"}]}, "given twice"),
        ({**ONE, "tasks": [{"name": "s1_nano", "cout": 3}]}, "cout"),
        ({**ONE, "tasks": [{"name": "s1_nano", "count": 0}]}, "count is 0"),
        ({**ONE, "tasks": [{"name": "s1_nano", "families": ["chess"]}]}, "chess"),
        ({**ONE, "tasks": [{"name": "gsm8k", "families": ["chains"]}]}, "families belong to s1_nano"),
        ({**ONE, "tasks": [{"name": "s1_nano", "path": "x"}]}, "leave path"),
        ({**ONE, "methods": [{"method": "tree"}]}, "tree"),
        ({**ONE, "methods": [{"method": "budget", "budgets": [-1]}]}, "thinking_token_budget is -1"),
        ({**ONE, "methods": [{"method": "budget", "budgets": []}]}, "no condition"),
        ({**ONE, "methods": [{"method": "budget", "budgets": [8, 8]}]}, "'budget 8' stands in the grid twice"),
        ({**ONE, "methods": [{"method": "parallel", "samples": 1}]}, "samples at least 2"),
        ({**ONE, "methods": [{"method": "parallel", "samples": 4, "temperature": 0}]}, "temperature must be above 0"),
        ({**ONE, "methods": [{"method": "rejection", "limits": [9], "tries": 0}]}, "tries"),
        ({**ONE, "samples": 4}, "greedy samples are all alike"),
        ({**ONE, "max_tokens": 0}, "max_tokens is 0"),
        ({**ONE, "prompt": "cot"}, "cot"),
        ({**ONE, "engine": {"gpu": 1}}, "unknown field 'gpu'"),
        ({**ONE, "endpoint": {"url": "http://x"}}, "model"),
        ({**ONE, "endpoint": {"url": "x:80/v1", "model": "m"}}, "endpoint: url is 'x:80/v1'; give http"),
        (
            {**ONE, "endpoint": {"url": "http://x", "model": "m", "concurrency": 0}},
            "endpoint.concurrency is 0",
        ),
        ({**ONE, "endpoint": {"url": "http://x", "model": "m", "retries": -1}}, "endpoint.retries is -1"),
        ({**ONE, "endpoint": {"url": "http://x", "model": "m", "timeout_s": 0}}, "endpoint.timeout_s is 0"),
        ({**ONE, "tassks": []}, "tassks"),
        (
            {**ONE, "max_tokens": 1039, "methods": [{"method": "budget", "budgets": [16]}]},
            "budget 16 and answer_tokens 1024 do not fit into max_tokens 1039; raise max_tokens, or lower",
        ),
        ({**ONE, "max_tokens": 1024}, "thinking and answer_tokens 1024 do not fit into max_tokens 1024"),
        ({**ONE, "min_answer_tokens": -1}, "min_answer_tokens is -1"),
    ],
)
def test_a_bad_grid_is_refused_by_name(values, message):
    with pytest.raises(InputError, match=message):
        grid.from_values(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "must be a mapping"),
        ("{", "not YAML"),
        (None, "cannot read the configuration"),
        ("seed: 1\ntasks: []\nseed: 2", "line 3: 'seed' is given twice"),
        ("methods: [{method: budget, budgets: [1], budgets: [2]}]", "line 1: 'budgets' is given twice"),
    ],
)
def test_a_bad_file_is_refused_by_name(tmp_path, text, message):
    file = tmp_path / "bad.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=rf"bad\.yaml.*{message}"):
        grid.load(file)


def conditions(*methods, **fields):
    found = grid.from_values({"tasks": [{"name": "s1_nano"}], "methods": list(methods), **fields}).conditions()
    return {condition.label: condition for condition in found}


def test_what_methods_come_to():
    found = conditions(
        {"method": "none"},
        {"method": "none", "opener": False},
        {"method": "budget", "budgets": [64]},
        {"method": "auto"},
        {"method": "extensions", "extensions": [2], "string": "Hmm", "budget": 512},
        {"method": "extensions", "extensions": [2], "string": ""},
        {"method": "token_conditional", "limits": [2048], "forced": True},
        {"method": "step_conditional", "limits": [16]},
        {"method": "step_conditional", "limits": [16], "forced": True},
        {"method": "class_conditional", "default_tokens": 6109},
        {"method": "rejection", "limits": [3500], "tries": 9},
        {"method": "parallel", "samples": 16, "budgets": [32]},
        max_tokens=4096,
        answer_tokens=100,
    )
    asked = {label: changed_params(condition.params) for label, condition in found.items()}
    assert asked["no forcing"] == {"max_tokens": 4096, "thinking_budget_action": "truncate"}
    assert asked["no opener"] == {"max_tokens": 4096, "thinking_format": "none"}
    assert asked["budget 64"] == {"max_tokens": 164, "thinking_token_budget": 64}
    assert conditions({"method": "auto"}, min_answer_tokens=0)["auto"].params.min_answer_tokens == 0
    assert conditions({"method": "budget", "budgets": [0]}, max_tokens=48, answer_tokens=48)["budget 0"].limit == 0
    # The same room for an answer behind every limit: all thinking that max_tokens leaves, whatever is extended.
    assert asked["auto"] == {"max_tokens": 4096, "thinking_token_budget": 3996} and found["auto"].limit == 3996
    assert asked["2x no string"]["max_tokens"] == 4096 and asked["2x no string"]["thinking_token_budget"] == 3996
    assert asked["2x Hmm"] == {
        "max_tokens": 612,
        "thinking_token_budget": 512,
        "thinking_extensions": 2,
        "thinking_extension_str": "Hmm",
    }
    assert asked["2x no string"]["thinking_extension_str"] == ""
    assert asked["token-conditional + budget 2048"] == {"max_tokens": 2148, "thinking_token_budget": 2048}
    assert found["token-conditional + budget 2048"].suffix == "Think for up to 2048 tokens."
    step = found["step-conditional + stop at 0 16"]
    assert step.suffix == "Think for up to 16 steps." and step.limit == 1600 and step.opener == "<|im_start|>"
    assert step.params.thinking_format["triggers"] == ["<|im_start|>answer", "<|im_start|>0"]
    free = found["step-conditional 16"]  # the model's own marks, and no end but its own
    assert free.opener == "<|im_start|>" and free.params.thinking_format["triggers"] == ["<|im_start|>answer"]
    assert found["class-conditional long"].asks_more and not found["class-conditional short"].asks_more
    assert found["rejection 3500"].tries == 9 and asked["rejection 3500"]["temperature"] == 1.0
    assert found["16 samples, budget 32"].samples == 16 and asked["16 samples, budget 32"]["logprobs"] == 0


# The published commands, by group; what every one of them has in common stands in COMMON.
COMMON = "max_gen_toks=32768,"
S1_BF = {"max_tokens": 32768, "answer_reserve_tokens": 100}


@pytest.mark.parametrize(
    ("arguments", "expected", "limit", "tries"),
    [
        ("", {"max_tokens": 32768, "thinking_format": "none"}, None, 0),
        ("max_tokens_thinking=auto", S1_BF, 32768, 0),
        ("max_tokens_thinking=500", {"max_tokens": 32768, "thinking_token_budget": 500}, 500, 0),
        (
            "max_tokens_thinking=auto,thinking_n_ignore=2,thinking_n_ignore_str=Wait",
            {**S1_BF, "thinking_extensions": 2},
            32768,
            0,
        ),
        (
            "max_tokens_thinking=auto,thinking_n_ignore=2",
            {**S1_BF, "thinking_extensions": 2, "thinking_extension_str": ""},
            32768,
            0,
        ),
        (
            "max_tokens_thinking=auto,thinking_n_ignore=2,thinking_n_ignore_str=Alternatively",
            {**S1_BF, "thinking_extensions": 2, "thinking_extension_str": "Alternatively"},
            32768,
            0,
        ),
        (
            "max_tokens_thinking=3500,rejection_sample=True,temperature=1",
            {
                "max_tokens": 32768,
                "thinking_token_budget": 3500,
                "thinking_budget_action": "truncate",
                "temperature": 1.0,
            },
            3500,
            1024,
        ),
        ("max_tokens_thinking=auto,min_tokens_thinking=300", {**S1_BF, "min_thinking_tokens": 300}, 32768, 0),
        ("temperature=1", {"max_tokens": 32768, "thinking_format": "none", "temperature": 1.0}, None, 0),
        (
            "max_tokens_thinking=auto,thinking_start=<|im_start|>,thinking_end=<|im_start|>answer,"
            "until_thinking=<|im_start|>0",
            {
                **S1_BF,
                "thinking_format": {
                    "opener": "<|im_start|>assistant\n<|im_start|>",
                    "end": "<|im_start|>answer",
                    "budget_end": "<|im_start|>answer\nFinal Answer:",
                    "triggers": ["<|im_start|>0"],
                },
            },
            32768,
            0,
        ),
    ],
)
def test_published_commands_map_one_to_one(arguments, expected, limit, tries):
    found = parse(COMMON + arguments)
    assert changed_params(found.params(None)) == expected
    assert (found.limit, found.tries) == (limit, tries)
    assert (found.opener is not None) == ("until_thinking" in arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("max_tokens_thinking", "has no ="),
        ("max_gen_toks=1,max_gen_toks=2", "given twice"),
        ("thinking_budget=3", "thinking_budget"),
        ("max_tokens_thinking=many", "no whole number"),
        ("temperature=hot", "no number"),
        ("temperature_thinking=hot", "no number"),
        ("top_k=--3", "no whole number"),
        ("temperature=0,temperature_thinking=1,max_tokens_thinking=9", "sampled alike"),
        ("rejection_sample=True,temperature=1", "needs max_tokens_thinking"),
        ("rejection_sample=True,max_tokens_thinking=9", "temperature above 0"),
    ],
)
def test_harness_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(InputError, match=message):
        parse(arguments)


def test_harness_arguments_in_a_grid():
    text = "max_gen_toks=2048,max_tokens_thinking=64,thinking_n_ignore=1,thinking_n_ignore_str=Wait"
    (condition,) = conditions({"method": "harness", "arguments": text}).values()
    assert condition.label == text and condition.limit == 64
    assert condition.params == SamplingParams(max_tokens=2048, thinking_token_budget=64, thinking_extensions=1)
