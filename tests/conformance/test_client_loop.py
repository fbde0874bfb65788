"""The original's loop of calls, written against this engine, and native forcing: equal tokens under greedy decoding.

The loop is the paper's harness: think until a stop token, drop it, append the extension's ids and call again; then
append the end delimiter's ids and call for the answer. Every call is a plain one: no thinking format, token ids in,
stop ids. It holds where none of the deviations that the specification states bites: no budget is reached, and no round
begins with an end.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from engine import Engine, SamplingParams
from tests.conformance.forced_world import CONTEXT
from tests.conformance.lab import ENDLESS, STORY
from tests.conformance.scripted import IM_END, IM_START, Vocabulary


@dataclass
class Loop:
    """What the client has when it is done."""

    token_ids: list[int]
    forced: list[int]
    calls: int = 0
    comparable: bool = True
    """No round of thinking ran out of tokens, and none began with an end."""


def client_loop(
    engine: Engine,
    vocabulary: Vocabulary,
    prompt: Sequence[int],
    extensions: int,
    thinking: int,
    answer: int,
    closer: str = "<|im_start|>answer",
) -> Loop:
    """One question through the loop; `thinking` and `answer` are the max_tokens of its calls."""
    stops = tuple({vocabulary[IM_START], *vocabulary.eos})
    loop = Loop([], [])

    def call(most: int, stop_ids: tuple[int, ...]) -> tuple[list[int], str]:
        params = SamplingParams(thinking_format="none", max_tokens=most, stop_token_ids=stop_ids)
        done = engine.generate([[*prompt, *loop.token_ids]], params)[0].outputs[0]
        loop.calls += 1
        return done.token_ids, done.finish_reason

    def write(ids: Sequence[int]) -> None:
        loop.forced += range(len(loop.token_ids), len(loop.token_ids) + len(ids))
        loop.token_ids += ids

    for left in range(extensions, -1, -1):
        ids, reason = call(thinking, stops)
        if reason != "stop" or ids[0] in stops:
            loop.comparable = False
            return loop
        ended_by = ids[-1]
        loop.token_ids += ids[:-1] if ids[-1] in stops else ids
        if left:
            write(vocabulary.encode("Wait"))
    end = vocabulary.encode(closer)
    if ended_by == end[0]:  # the model wrote this token itself
        loop.token_ids.append(end[0])
        end = end[1:]
    write(end)
    loop.token_ids += call(answer, ())[0]
    return loop


@pytest.mark.parametrize("extensions", [0, 1, 2, 3])
def test_the_originals_loop_of_calls_on_a_script(labs, extensions):
    lab = labs({**STORY, "t": ["a", "u", "v"]})
    prompt = lab.ids("<|im_start|>think")
    loop = client_loop(lab.engine, lab.vocabulary, prompt, extensions, thinking=100, answer=60)
    done = lab.ask(thinking_extensions=extensions)
    assert (done.token_ids, done.forced) == (loop.token_ids, loop.forced) and loop.comparable
    assert loop.calls == extensions + 2


def test_the_originals_loop_of_calls_on_random_weights(world):
    """Many prompts, 0 to 3 extensions; only those outside the stated deviations count, and there are plenty."""
    chance = random.Random(3)
    opener = world.vocabulary.encode("<|im_start|>think")
    compared = extended = 0
    with Engine(str(world.directory), device="cpu", dtype="float32", max_model_len=CONTEXT) as engine:
        for i in range(80):
            prompt = [*(chance.randrange(256) for _ in range(chance.randrange(1, 12))), *opener]
            loop = client_loop(engine, world.vocabulary, prompt, i % 4, thinking=32, answer=16)
            if not loop.comparable:
                continue
            params = SamplingParams(thinking_extensions=i % 4, min_answer_tokens=0)
            native = engine.generate([prompt], params)[0].outputs[0]
            assert native.token_ids[: len(loop.token_ids)] == loop.token_ids and native.forced == loop.forced
            compared += 1
            extended += native.thinking.extensions
    assert compared >= 10 and extended >= 10


def test_the_loop_of_calls_prefills_again_what_native_forcing_keeps(labs):
    lab = labs(STORY, enable_prefix_caching=False)
    prompt = lab.ids("!" * 40 + "<|im_start|>think")
    before = lab.engine.stats()["prefill_tokens"]
    loop = client_loop(lab.engine, lab.vocabulary, prompt, 2, thinking=100, answer=60)
    between = lab.engine.stats()["prefill_tokens"]
    assert lab.request(prompt, thinking_extensions=2).outputs[0].token_ids == loop.token_ids
    native = lab.engine.stats()["prefill_tokens"] - between
    assert native == len(prompt) and between - before > 4 * native


# --- the deviations that the specification states, so that nobody takes them for accidents ----------------------------


def test_deviation_the_budget_is_shared_by_all_extensions(labs):
    lab = labs({**ENDLESS, "e": [IM_START, "f", "g"]})  # every round is abcde
    loop = client_loop(lab.engine, lab.vocabulary, lab.ids("<|im_start|>think"), 2, thinking=6, answer=60)
    assert lab.text(loop.token_ids).startswith("abcdeWaitabcdeWaitabcde")  # each call has a fresh limit of 6
    done = lab.ask(thinking_extensions=2, thinking_token_budget=6)
    assert (done.thinking.tokens, done.thinking.extensions) == (5, 0)
    done = lab.ask(thinking_extensions=2, thinking_token_budget=8)
    assert lab.show(done).startswith("abcde{Wait}ab{\n<|im_start|>answer\nFinal Answer:}")


def test_deviation_the_stop_token_is_not_in_T(labs):
    lab = labs(STORY)
    done = lab.ask(thinking_token_budget=5)
    assert (done.thinking.stop_reason, done.thinking.tokens) == ("natural", 5)


def test_deviation_the_first_token_of_a_response_may_end_the_thought(labs):
    lab = labs({**STORY, "think": [IM_START, "a", "b"]})
    done = lab.ask(thinking_extensions=0)  # the harness would mask the end here; masks come after an extension only
    assert lab.show(done) == "<|im_start|>{answer}ABC<|im_end|>"


def test_deviation_the_closer_is_always_written(labs):
    lab = labs({**STORY, "e": [IM_END, "f", "g"]})
    assert lab.show(lab.ask()) == "abcde{<|im_start|>answer}ABC<|im_end|>"
