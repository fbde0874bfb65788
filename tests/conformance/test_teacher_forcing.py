"""Rules 1, 5, 11, 19, 22, 23, 25, 27, 28 and 35 on real attention: transformers judges every committed token."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from engine import Engine, SamplingParams
from engine.request import RequestOutput
from tests.conformance.cases import FORMATS
from tests.conformance.forced_world import CONTEXT, World, make_world, step_format
from tests.conformance.scripted import IM_START
from tests.engine.shapes import SHAPES

ROOMY = {"kv_cache_tokens": 64 * CONTEXT, "max_num_seqs": 64}
TIGHT = {"kv_cache_tokens": 512, "max_num_seqs": 24, "page_size": 8}
SCHEDULES = {
    "batch 1": {**ROOMY, "max_num_seqs": 1},
    "preemption": TIGHT,
    "chunks of 16": {**ROOMY, "max_num_seqs": 12, "max_num_batched_tokens": 16},
    "no prefix cache": {**ROOMY, "enable_prefix_caching": False},
    "overlap": {**ROOMY, "overlap": True},
    "everything at once": {**TIGHT, "max_num_batched_tokens": 24, "overlap": True},
}


@pytest.fixture(scope="module")
def engines(world: World) -> Iterator[Callable[..., Engine]]:
    made: dict[str, Engine] = {}

    def make(**config: Any) -> Engine:
        key = repr(sorted(config.items()))
        if key not in made:
            made[key] = Engine(str(world.directory), device="cpu", dtype="float32", max_model_len=CONTEXT, **config)
        return made[key]

    yield make
    for engine in made.values():
        engine.check()
        engine.close()


@pytest.fixture(scope="module")
def requests(world: World) -> tuple[list[list[int]], list[SamplingParams]]:
    """64 requests: prompts of 1 to 70 tokens, every fourth with reasoning of its own, and all kinds of budgets."""
    chance = random.Random(7)
    opener = list(world.vocabulary.encode("<|im_start|>think"))
    prompts, params = [], []
    for i in range(64):
        prompt = [chance.randrange(256) for _ in range(chance.randrange(1, 60))] + opener
        prompts.append(prompt + [chance.randrange(256) for _ in range(chance.randrange(8) if i % 4 == 0 else 0)])
        budget = chance.choice([None, 0, 1, 7, 16, 30, 45])
        params.append(
            SamplingParams(
                max_tokens=chance.choice([40, 60, 75]),
                thinking_token_budget=budget,
                min_thinking_tokens=0 if budget is None else min(budget, chance.choice([0, 0, 10])),
                thinking_extensions=chance.choice([0, 1, 2, 5]),
                thinking_extension_str=chance.choice(["Wait", "Wait,", "", "let me think", "\n"]),
                thinking_grace_tokens=chance.choice([0, 0, 4]),
                thinking_end_str=chance.choice(
                    [None, None, "<|im_start|>answer\n", "Wait.\n<|im_start|>answer: the answer is "]
                ),
                thinking_budget_action=chance.choice(["force_end"] * 5 + ["truncate"]),
                thinking_eos_policy=chance.choice(["end", "end", "stop"]),
                min_answer_tokens=chance.choice([0, 1, 4]),
                answer_reserve_tokens=chance.choice([0, 1, 9]),
            )
        )
    return prompts, params


@pytest.fixture(scope="module")
def base(engines, requests) -> list[RequestOutput]:
    return engines(**ROOMY).generate(*requests)


def essence(outputs: list[RequestOutput]) -> list[tuple]:
    return [(c.token_ids, c.forced, c.finish_reason, c.thinking) for o in outputs for c in o.outputs]


def test_teacher_forcing_a_batch_of_64(world, requests, base):
    for prompt, params, output in zip(*requests, base, strict=True):
        world.judge(prompt, output.outputs[0], params, dict(FORMATS["s1"]))
    reasons = Counter(o.outputs[0].thinking.stop_reason for o in base)
    assert min(reasons[r] for r in ("natural", "eos", "budget", "max_tokens", "truncated")) >= 1, reasons
    assert sum(o.outputs[0].thinking.extensions for o in base) >= 20
    assert sum(o.usage.forced_tokens for o in base) >= 300


@pytest.mark.parametrize("name", SCHEDULES)
def test_rule_35_equal_tokens_whatever_the_schedule(engines, requests, base, name):
    engine = engines(**SCHEDULES[name])
    assert essence(engine.generate(*requests)) == essence(base)
    if "kv_cache_tokens" in SCHEDULES[name] and SCHEDULES[name]["kv_cache_tokens"] < 1000:
        assert engine.stats()["preemptions"] > 0
    engine.check()


def test_rule_35_prefix_hits(engines, requests, base):
    engine = engines(**ROOMY, page_size=4)
    assert essence(engine.generate(*requests)) == essence(base)
    before = engine.stats()["prefix_hit_tokens"]
    again = engine.generate(*requests)
    assert essence(again) == essence(base)
    assert engine.stats()["prefix_hit_tokens"] - before >= sum(len(p) - 4 for p in requests[0])
    assert all(o.usage.cached_tokens >= len(p) - 4 for o, p in zip(again, requests[0], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["qwen3", "llama3"])
def test_teacher_forcing_other_architectures(requests, shape, tmp_path):
    """The 64 requests on each, under pressure."""
    world = make_world(tmp_path, **{**SHAPES[shape], "tied": False})
    config = {"device": "cpu", "dtype": "float32", "max_model_len": CONTEXT, **SCHEDULES["everything at once"]}
    with Engine(str(world.directory), **config) as engine:
        outputs = engine.generate(*requests)
        assert engine.stats()["preemptions"] > 0
    for prompt, params, output in zip(*requests, outputs, strict=True):
        world.judge(prompt, output.outputs[0], params, dict(FORMATS["s1"]))
    reasons = Counter(o.outputs[0].thinking.stop_reason for o in outputs)
    assert reasons["natural"] + reasons["eos"] and reasons["budget"], reasons
    assert sum(o.usage.forced_tokens for o in outputs) >= 300


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_rule_28_rule_35_tensor_parallel(world, requests, base):
    config = {**ROOMY, "max_model_len": CONTEXT, "tensor_parallel_size": 2}
    with Engine(str(world.directory), device="cpu", dtype="float32", **config) as engine:
        assert essence(engine.generate(*requests)) == essence(base)
        engine.check()


def test_rule_22_forks_on_real_attention(world, engines, requests, base):
    prompts, params = requests
    for config in (ROOMY, TIGHT):
        engine = engines(**config)
        outputs = engine.generate(prompts[:16], [SamplingParams(**{**vars(p), "n": 3}) for p in params[:16]])
        for output, one in zip(outputs, base[:16], strict=True):
            assert essence([output]) == essence([one]) * 3
        engine.check()


def test_rule_27_what_was_forced_is_what_the_cache_holds(world, engines, requests, base):
    """Continue every response from its own ids: the pages it left behind must be those of the committed text."""
    engine = engines(**ROOMY, page_size=4)
    engine.generate(*requests)
    plain = SamplingParams(thinking_format="none", max_tokens=12, ignore_eos=True)
    prompts = [[*p, *o.outputs[0].token_ids][: CONTEXT - 20] for p, o in zip(requests[0], base, strict=True)]
    outputs = engine.generate(prompts, plain)
    for prompt, first, output in zip(prompts, base, outputs, strict=True):
        assert output.usage.cached_tokens >= len(first.prompt_token_ids) + len(first.outputs[0].token_ids) - 8
        logits = world.raised([*prompt, *output.outputs[0].token_ids])[len(prompt) - 1 : -1]
        assert logits.argmax(1).tolist() == output.outputs[0].token_ids


@pytest.mark.parametrize(
    "config",
    [ROOMY, TIGHT, {**ROOMY, "max_num_batched_tokens": 16, "max_num_seqs": 12}],
    ids=["roomy", "preemption", "chunks"],
)
def test_rule_01_several_token_triggers_on_real_attention(world, engines, requests, config):
    strings = step_format(world)
    assert len(strings["triggers"]) >= 2
    engine, prompts = engines(**config), requests[0]
    params = [
        SamplingParams(**{**vars(p), "thinking_extensions": 0, "thinking_format": json.dumps(strings)})
        for p in requests[1]
    ]
    naturals = completed = 0
    for prompt, q, output in zip(prompts, params, engine.generate(prompts, params), strict=True):
        want = world.judge(prompt, output.outputs[0], q, strings)
        natural = want.stop_reason == "natural"
        naturals += natural
        at = want.forced[0] - 1 if want.forced else -1
        completed += natural and at >= 0 and want.token_ids[at] == world.vocabulary[IM_START]
    assert naturals >= 3 and completed >= 3


def test_rule_05_live_control_on_real_attention(world, engines, requests):
    """Budgets moved before a request starts are its budgets, in any company."""
    engine, (prompts, params) = engines(**TIGHT), requests
    handles = [engine.submit(p, q) for p, q in zip(prompts, params, strict=True)]
    for handle in handles[40:]:
        handle.set_budget(12)
    for prompt, q, handle in list(zip(prompts, params, handles, strict=True))[60:]:
        moved = SamplingParams(
            **{**vars(q), "thinking_token_budget": 12, "min_thinking_tokens": min(12, q.min_thinking_tokens)}
        )
        done = handle.result().outputs[0]
        if q.min_thinking_tokens <= 12:
            world.judge(prompt, done, moved, dict(FORMATS["s1"]))
    for handle in handles:
        handle.result()


def test_the_judge_is_strict(world, requests, base):
    """A response with one wrong token, one wrong mark or one token missing is not let through."""
    prompts, params = requests
    at = next(
        i for i, o in enumerate(base) if o.outputs[0].thinking.stop_reason == "budget" and o.outputs[0].forced[0] > 3
    )
    done, strings = base[at].outputs[0], dict(FORMATS["s1"])
    wrong = [*done.token_ids[:2], (done.token_ids[2] + 1) % 256, *done.token_ids[3:]]
    for fields in ({"token_ids": wrong}, {"forced": done.forced[1:]}, {"token_ids": done.token_ids[:-1]}):
        with pytest.raises((AssertionError, IndexError)):
            world.judge(prompts[at], type(done)(**{**vars(done), **fields}), params[at], strings)
    assert torch.is_tensor(world.logits(prompts[at]))
