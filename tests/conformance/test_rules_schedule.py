"""Rules 23-28: scheduler, device and cache. `test_teacher_forcing.py` repeats them on real attention."""

import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from engine.build import build_core
from engine.prepare import Preparer
from engine.ranks.group import Group
from engine.schedule.sequence import Admission
from kernels import REFERENCE
from kernels.native import library as native
from tests.conformance.lab import ENDLESS, STORY, path
from tests.conformance.scripted import IM_END

CLOSED = "<|im_start|>answer\nFinal Answer:"
LONG = "Hmm" * 40 + "<|im_start|>answer" + "Wait" * 20
TIGHT = {"kv_cache_tokens": 256, "page_size": 8, "max_num_batched_tokens": 16, "max_num_seqs": 8}


def requests_of_every_length() -> list[dict]:
    """Thoughts, forced strings and answers of different lengths, so that rows are vacated and filled all the time."""
    return [
        {
            "prompt": "!" * (i % 9) + "<|im_start|>think" + "ab" * (i % 4),
            "thinking_token_budget": 8 + 5 * i % 37,
            "thinking_extensions": i % 4,
            "thinking_extension_str": "Wait" * (1 + i % 5),
            "thinking_end_str": LONG if i % 3 == 0 else None,
            "max_tokens": 180 if i % 3 == 0 else 90,
        }
        for i in range(24)
    ]


def test_rule_23_row_moves(labs):
    labs(STORY, max_num_seqs=5).ask_all(requests_of_every_length())


def test_rule_23_preemption_in_the_middle_of_forced_strings(labs):
    lab = labs(ENDLESS, **TIGHT)
    before = lab.engine.stats()["preemptions"]
    lab.ask_all([{**r, "thinking_end_str": LONG, "max_tokens": 180} for r in requests_of_every_length()])
    assert lab.engine.stats()["preemptions"] > before + 5
    lab.engine.check()


def test_rule_23_preemption_in_the_middle_of_extensions_and_delimiters(labs):
    lab = labs({**STORY, "think": ["c", "d", "e"]}, **TIGHT)
    lab.ask_all(
        [
            {
                "prompt": "!" * (20 + i % 5) + "<|im_start|>think",
                "thinking_extensions": 8,
                "thinking_extension_str": "Hmm" * 7 + "Wait",
            }
            for i in range(16)
        ]
    )
    assert lab.engine.stats()["preemptions"] > 0


@pytest.mark.parametrize("chunk", [1, 5, 16])
def test_rule_23_chunked_prefill(labs, chunk):
    lab = labs(STORY, max_num_batched_tokens=chunk, max_num_seqs=chunk)
    lab.ask_all([{"prompt": "!" * 50 + r.pop("prompt"), **r} for r in requests_of_every_length()[: 4 * min(chunk, 4)]])


def test_rule_23_a_full_prefix_hit(labs):
    lab = labs(STORY, page_size=4)
    for tail in range(8):
        prompt = [*lab.ids("!" * (30 + tail)), *lab.ids("<|im_start|>thinkabcd")]
        first = lab.ask(prompt, thinking_token_budget=7, thinking_extensions=1)
        again = lab.request(prompt, thinking_token_budget=7, thinking_extensions=1)
        assert again.usage.cached_tokens >= len(prompt) - 4
        assert (again.outputs[0].token_ids, again.outputs[0].forced) == (first.token_ids, first.forced)
        assert again.outputs[0].thinking == first.thinking
        assert lab.ask(prompt, thinking_token_budget=4).token_ids[0] == lab.vocabulary["\n"]


def test_rule_24_progress_is_a_pointer(labs):
    """The text before a forced string ends in that string's own words, whole or in part."""
    lab = labs({**STORY, "e": ["Wait", "f", "g"], "q": ["Wait", "r", "s"], "Wait": ["<|im_start|>", "p", "q"]})
    done = lab.ask(thinking_extensions=2)
    assert lab.show(done) == "abcdeWait{Wait}pqWait{Wait}pqWait<|im_start|>{answer}ABC<|im_end|>"
    done = lab.ask(thinking_extensions=1, thinking_extension_str="WaitWait")
    assert lab.show(done) == "abcdeWait{WaitWait}pqWait<|im_start|>{answer}ABC<|im_end|>"
    lab = labs({**path("think", "answer", "\n", "Final", " Answer", ":", "answer"), "A": [IM_END, "~", "^"]})
    for budget in range(8):
        done = lab.ask(thinking_token_budget=budget, max_tokens=30)
        closer = CLOSED if done.token_ids[:budget][-1:] == lab.ids("\n") else f"\n{CLOSED}"
        assert f"{{{closer}}}" in lab.show(done)


class Operators(TorchDispatchMode):
    """Sees every operator."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled here, and the import of torch's compiler for that takes seconds."""
        return False


class NoHostReads(Operators):
    """Raises where an operator's result goes to the host, or where its shape depends on values."""

    FORBIDDEN = ("_local_scalar_dense", "item", "nonzero", "masked_select", "unique", "is_nonzero", "equal", "allclose")
    METHODS = ("tolist", "numpy", "item", "__bool__", "__int__", "__float__", "__index__", "__array__")
    """Reads that are no operators on the CPU."""
    active = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        boolean = name == "index" and any(t is not None and t.dtype is torch.bool for t in args[1])
        if self.active and (name in self.FORBIDDEN or name.startswith(("unique", "_unique")) or boolean):
            raise AssertionError(f"{func} needs the host to see a tensor")
        return func(*args, **(kwargs or {}))


def forbid_reads(runner, monkeypatch) -> None:
    """From now on `runner.launch` raises where a tensor is read. The decoder is left out where it has no native
    kernels: its torch definitions read prompt lengths (never tokens), which its kernels for the GPU do not.
    """
    mode, launch, forward = NoHostReads(), runner.launch, runner.model.forward
    mode.active = False

    def refusing(method):
        def read(*args, **kwargs):
            if mode.active:
                raise AssertionError("a tensor is read on the host")
            return method(*args, **kwargs)

        return read

    def guarded_launch(step):
        mode.active = True
        try:
            with mode:
                return launch(step)
        finally:
            mode.active = False

    def exempt_forward(*args):
        mode.active = False
        hidden = forward(*args)
        mode.active = True
        return hidden

    for name in mode.METHODS:
        monkeypatch.setattr(torch.Tensor, name, refusing(getattr(torch.Tensor, name)))
    runner.launch = guarded_launch
    if REFERENCE or not native.LOADED:
        runner.model.forward = exempt_forward


def core_of(lab, **config):
    """A loop of one's own over the lab's checkpoint, and a way to add requests to it."""
    config = type(lab.engine.config)(**{**vars(lab.engine.config), **config})
    core = build_core(config, lab.directory, lab.engine.tokenizer, Group.single(torch.device("cpu")))
    preparer = Preparer(lab.engine.tokenizer, config.thinking_format, lab.context)

    def add(number: int, prompt: str, **params) -> None:
        ready = preparer.prepare(lab.ids(prompt), lab.params(**params))
        core.apply(Admission(number, ready, ready.params.seed or number))

    return core, add


EVERYTHING = [
    {"thinking_token_budget": 7, "thinking_extensions": 2},
    {"thinking_token_budget": 20, "thinking_grace_tokens": 9},
    {"min_thinking_tokens": 9, "thinking_end_str": LONG, "thinking_token_budget": 30},
    {"thinking_extensions": 3, "thinking_extension_str": ""},
    {"temperature": 1.0, "top_p": 0.9, "top_k": 9, "seed": 1},
    {"thinking_budget_action": "truncate", "thinking_token_budget": 9},
    {"loop_ngram": 2, "loop_count": 3},
    {"logprobs": 2, "presence_penalty": 0.1, "min_answer_tokens": 3},
    {"thinking_format": "none"},
]


@pytest.mark.parametrize("kernels", ["native", "definitions"])
def test_rule_25_no_step_waits_for_the_host_to_see_a_token(labs, monkeypatch, kernels, request):
    if kernels == "definitions":  # what the GPU's kernels are twins of; natively the dispatch mode sees less
        request.getfixturevalue("definitions")
    lab = labs(STORY)
    core, add = core_of(lab, overlap=True)
    forbid_reads(core.runner, monkeypatch)
    for number, params in enumerate(EVERYTHING):
        add(number, "<|im_start|>think" + "ab" * (number % 3), max_tokens=160, **params)
    tokens: dict[int, list[int]] = {}
    while core.has_work:
        for event in core.step():
            if event.token >= 0:
                tokens.setdefault(event.sequence.admission.number, []).append(event.token)
    core.check()
    for number, params in enumerate(EVERYTHING):
        want = lab.request("<|im_start|>think" + "ab" * (number % 3), max_tokens=160, **{"seed": number, **params})
        assert tokens[number] == want.outputs[0].token_ids, params


@pytest.mark.parametrize(
    "read", [lambda t: t.sum().item(), lambda t: t.tolist(), lambda t: t[t > 0], lambda t: bool(t.any())]
)
def test_rule_25_the_guard_sees_reads(labs, monkeypatch, read):
    core, add = core_of(labs(STORY), overlap=True)
    core.runner._draw = lambda hidden, *rest: read(hidden)
    forbid_reads(core.runner, monkeypatch)
    add(0, "<|im_start|>think", max_tokens=20)
    with pytest.raises(AssertionError, match="host"):
        core.step()


def test_rule_25_step_n_plus_1_is_launched_before_step_n_is_read(labs):
    lab = labs(ENDLESS)
    core, add = core_of(lab, overlap=True)
    add(0, "<|im_start|>think", thinking_token_budget=5, max_tokens=40)
    log, launch = [], core.runner.launch

    def logged(step):
        launched, number = launch(step), sum(kind == "launch" for kind, _ in log)
        log.append(("launch", number))
        read = launched.read
        launched.read = lambda: (log.append(("read", number)), read())[1]
        return launched

    core.runner.launch = logged
    while core.has_work:
        core.step()
    for number in range(1, 14):  # the cut, the newline and all of `Final Answer:` are among these steps
        assert log.index(("launch", number + 1)) < log.index(("read", number))


def test_rule_25_overlap_changes_no_token(labs):
    lab = labs(STORY, overlap=True)
    lab.ask_all(requests_of_every_length())
    tight = labs(ENDLESS, overlap=True, **TIGHT)
    tight.ask_all([{**r, "thinking_end_str": LONG, "max_tokens": 180} for r in requests_of_every_length()])
    assert tight.engine.stats()["preemptions"] > 0
    tight.engine.check()


def test_rule_26_forcing_adds_no_operator_for_its_neighbours(labs):
    """The work of a step, counted in operators, is that of the same step without any budget (bench measures time)."""

    class Count(Operators):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls += 1
            return func(*args, **(kwargs or {}))

    lab = labs(ENDLESS)
    counts = []
    for budget in (None, 500):
        core, add = core_of(lab, max_model_len=1024)
        for number in range(16):
            add(number, "<|im_start|>think", **({"thinking_token_budget": budget} if number % 2 else {}))
        for _ in range(3):
            core.step()
        with Count() as counter:
            core.step()
        counts.append(counter.calls)
    assert counts[0] == counts[1]


def test_rule_27_replaced_draws_never_enter_the_prefix_cache(labs):
    lab = labs(STORY, page_size=1)
    prompt = "!!!<|im_start|>think"
    done = lab.ask(prompt, thinking_extensions=1, thinking_token_budget=30)
    assert "Wait" in done.text
    drawn = [*lab.ids(prompt), *lab.ids("abcde<|im_start|>")]  # the trigger was drawn here and replaced
    output = lab.request([*drawn, *lab.ids("!")], format="none", max_tokens=1)
    assert output.usage.cached_tokens == len(drawn) - 1
    kept = [*lab.ids(prompt), *lab.ids("abcdeWaitp")]  # what was committed instead, forced or not, is there
    output = lab.request([*kept, *lab.ids("!")], format="none", max_tokens=1)
    assert output.usage.cached_tokens == len(kept)


def test_rule_27_requests_with_different_budgets_share_pages_up_to_the_cut(labs):
    lab = labs(ENDLESS, page_size=4)
    prompt = "??" + "<|im_start|>think"
    short = lab.request(prompt, thinking_token_budget=12)
    text = [*lab.ids(prompt), *short.outputs[0].token_ids[:12]]  # 16 tokens: the thought up to the cut
    longer = lab.request([*text, *lab.ids("m")], thinking_token_budget=40)
    assert longer.usage.cached_tokens == 16
    assert lab.text(longer.outputs[0].token_ids).startswith("nop")


@pytest.mark.timeout(120)
def test_rule_28_ranks_reach_one_decision(labs, new_lab):
    lab = new_lab(STORY, tensor_parallel_size=2)
    lab.ask_all(requests_of_every_length()[:12] + [{**p} for p in EVERYTHING[:4]])
    sampled = [lab.params(temperature=1.0, seed=s, thinking_token_budget=20, max_tokens=60) for s in range(4)]
    alone = labs(STORY)
    prompts = [lab.ids("<|im_start|>think")] * 4
    for a, b in zip(lab.engine.generate(prompts, sampled), alone.engine.generate(prompts, sampled), strict=True):
        assert a.outputs[0].token_ids == b.outputs[0].token_ids


def test_state_never_leaks_through_a_slot(labs):
    """One slot serves requests that leave it in every state: cut, extended, truncated, aborted, half closed."""
    lab = labs(ENDLESS, max_num_seqs=1, max_model_len=4096, kv_cache_tokens=4096)
    for params in EVERYTHING[:6]:
        handle = lab.engine.submit(
            lab.ids("<|im_start|>think"), lab.params(**{"thinking_token_budget": 3000, **params})
        )
        threading.Timer(0.02, handle.abort).start()
        handle.result()
        assert lab.show(lab.ask(thinking_token_budget=2)) == f"ab{{\n{CLOSED}}}XY<|im_end|>"
