"""Rules 20, 22, 23, 27, 35, 36 and 37 on real attention: what was taken back leaves nothing in the cache."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from engine import Engine, SamplingParams
from engine.request import RequestOutput
from engine.text.tokenizer import Tokenizer
from engine.thinking.automaton import TokenBytes, next_states
from tests.conformance.forced_world import CONTEXT, World

ROOMY = {"kv_cache_tokens": 64 * CONTEXT, "max_num_seqs": 64}
TIGHT = {"kv_cache_tokens": 512, "max_num_seqs": 24, "page_size": 8}
SCHEDULES = {
    "batch of 4": {**ROOMY, "max_num_seqs": 4, "enable_prefix_caching": False},
    "preemption": TIGHT,
    "pages of 2, chunks": {**ROOMY, "page_size": 2, "max_num_seqs": 12, "max_num_batched_tokens": 16},
    "graphs": {**ROOMY, "step_graphs": "on"},
    "everything at once": {**TIGHT, "max_num_batched_tokens": 24, "overlap": True},
}


@dataclass(frozen=True)
class Loud:
    """Two tokens that are text, one after the other a trigger, and how much their logits are raised."""

    trigger: str
    bias: dict[int, float]


@pytest.fixture(scope="module")
def loud(world: World) -> Loud:
    """Of tokens that greedy decoding often writes."""
    opener = torch.tensor(world.vocabulary.encode("<|im_start|>think")).expand(16, -1)
    ids = torch.cat([torch.randint(0, 256, (16, 6), generator=torch.Generator().manual_seed(2)), opener], 1)
    start = ids.shape[1]
    for _ in range(20):
        ids = torch.cat([ids, world.logits_after(ids).argmax(1, keepdim=True)], 1)
    common = [token for token, _ in Counter(ids[:, start:].flatten().tolist()).most_common()]
    texts = {token: world.vocabulary.text([token]) for token in common}
    first, second = [token for token in common if texts[token].isalpha() and len(texts[token]) > 1][:2]
    trigger = texts[first] + texts[second]
    assert trigger[0] not in trigger[1:]
    height = 1.5 * float(world.logits(ids[0].tolist()).std())
    return Loud(trigger, {first: height, second: height})


@pytest.fixture(scope="module")
def engines(world: World) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(**config: Any) -> Engine:
        made.append(Engine(str(world.directory), device="cpu", dtype="float32", max_model_len=CONTEXT, **config))
        return made[-1]

    yield make
    for engine in made:
        engine.check()
        engine.close()


@pytest.fixture(scope="module")
def requests(world: World, loud: Loud) -> tuple[list[list[int]], list[SamplingParams]]:
    """32 requests in a format of plain text, with all kinds of budgets, extensions and penalties."""
    chance = random.Random(9)
    end = loud.trigger
    format = {"opener": "<|im_start|>think", "end": end, "triggers": [end], "budget_end": end + "\n"}
    opener = list(world.vocabulary.encode("<|im_start|>think"))
    prompts = [[chance.randrange(256) for _ in range(chance.randrange(1, 40))] + opener for _ in range(32)]
    params = [
        SamplingParams(
            thinking_format=format,
            logit_bias=loud.bias,
            max_tokens=chance.choice([40, 60, 75]),
            thinking_token_budget=chance.choice([None, 7, 16, 30, 45]),
            min_thinking_tokens=chance.choice([0, 0, 7]),
            thinking_extensions=chance.choice([0, 1, 3, 9]),
            thinking_extension_str=chance.choice(["Wait", "Wait,", "", "\n"]),
            presence_penalty=chance.choice([0, 0, 0.1]),
            temperature=(0, 1)[i % 4 == 3],
            logprobs=chance.choice([None, None, 2]),
            seed=i,
        )
        for i in range(32)
    ]
    return prompts, params


@pytest.fixture(scope="module")
def base(engines, requests) -> list[RequestOutput]:
    return engines(**ROOMY).generate(*requests)


def essence(outputs: list[RequestOutput]) -> list[tuple]:
    return [
        (c.token_ids, c.forced, c.finish_reason, c.thinking, c.text, c.reasoning, c.answer)
        for o in outputs
        for c in o.outputs
    ]


def test_what_follows_a_trigger_taken_back_is_the_models(world, requests, base, loud):
    """Every sampled token is transformers' first choice behind what was committed, or another where that is part of the
    trigger; nothing of the trigger is in the reasoning."""
    tokenizer = Tokenizer.load(world.directory)
    excluded = next_states([loud.trigger.encode()], TokenBytes(tokenizer.size, tokenizer.token_bytes)) != 0
    replaced = 0
    for prompt, params, output in zip(*requests, base, strict=True):
        done = output.outputs[0]
        assert loud.trigger not in done.reasoning
        if params.temperature or params.presence_penalty:
            continue
        ids = [*prompt, *done.token_ids]
        logits = world.raised(ids)[len(prompt) - 1 : -1].clone()
        logits[:, list(loud.bias)] += torch.tensor(list(loud.bias.values()))
        first = logits.argmax(1).tolist()
        for at, (choice, token) in enumerate(zip(first, done.token_ids, strict=True)):
            if at not in done.forced and choice != token:
                assert excluded[:, choice].any() or choice in tokenizer.eos_token_ids, (at, done)
                replaced += 1
    reasons = Counter(o.outputs[0].thinking.stop_reason for o in base)
    assert min(reasons["natural"], reasons["budget"]) >= 2 and replaced >= 9, (reasons, replaced)
    assert sum(o.outputs[0].thinking.extensions for o in base) >= 9


@pytest.mark.parametrize("name", SCHEDULES)
def test_rule_35_equal_tokens_whatever_the_schedule(engines, requests, base, name):
    engine = engines(**SCHEDULES[name])
    for _ in range(2):  # the second time from the prefix cache
        assert essence(engine.generate(*requests)) == essence(base)
    if name in ("preemption", "everything at once"):
        assert engine.stats()["preemptions"] > 0


def test_rule_35_definitions(definitions, engines, requests, base):
    """The torch definitions, of which the GPU's kernels are twins."""
    prompts, params = ([*kind[:8], *kind[-8:]] for kind in requests)
    wanted = [*base[:8], *base[-8:]]
    assert essence(engines(**ROOMY).generate(prompts, params)) == essence(wanted)


def test_rule_22_forks_and_rule_31_streams(engines, requests, base):
    engine = engines(**TIGHT)
    forks = engine.generate(requests[0][:12], [SamplingParams(**{**vars(p), "n": 3}) for p in requests[1][:12]])
    for output, one, params in zip(forks, base, requests[1], strict=False):
        assert essence([output])[:1] == essence([one])
        if not params.temperature:
            assert essence([output]) == essence([one]) * 3
    for prompt, params, one in zip(*requests, base, strict=True):
        deltas = list(engine.stream(prompt, params))
        done = one.outputs[0]
        assert [t for d in deltas for t in d.token_ids] == done.token_ids
        assert [t for d in deltas for t in d.forced] == done.forced
        assert "".join(d.text for d in deltas) == done.text
        assert deltas[-1].output.outputs[0].logprobs == done.logprobs
        assert done.logprobs is None or [p.token_id for p in done.logprobs] == done.token_ids


def test_rule_27_what_is_held_does_not_enter_the_prefix_cache(world, engines, requests, base):
    """Continue every response from its own ids: the pages it left behind are those of the committed text."""
    engine = engines(**ROOMY, page_size=2, overlap=True)
    engine.generate(*requests)
    plain = SamplingParams(thinking_format="none", max_tokens=6, ignore_eos=True)
    prompts = [[*p, *o.outputs[0].token_ids] for p, o in zip(requests[0], base, strict=True)]
    outputs = engine.generate(prompts, plain)
    assert sum(o.usage.cached_tokens for o in outputs) > 0.8 * sum(map(len, prompts))
    for prompt, output in zip(prompts, outputs, strict=True):
        logits = world.raised([*prompt, *output.outputs[0].token_ids])[len(prompt) - 1 : -1]
        assert logits.argmax(1).tolist() == output.outputs[0].token_ids


def test_rule_20_the_prefix_property(engines, requests, base):
    """A run at a smaller budget is that at a larger one up to the cut."""
    prompts, params = requests
    small = [SamplingParams(**{**vars(p), "thinking_token_budget": 12, "min_thinking_tokens": 0}) for p in params]
    large = [SamplingParams(**{**vars(p), "thinking_token_budget": 40, "min_thinking_tokens": 0}) for p in params]
    engine = engines(**ROOMY)
    for a, b in zip(engine.generate(prompts, small), engine.generate(prompts, large), strict=True):
        a, b = a.outputs[0], b.outputs[0]
        if a.thinking.stop_reason == "budget" and a.thinking.extensions == b.thinking.extensions == 0:
            assert a.token_ids[: a.thinking.tokens] == b.token_ids[: a.thinking.tokens]
