"""The captured step on the CPU: buckets, padding, persistent inputs and results, and the loop that is one step behind.

Capture is replaced by plain calls through the same code; tokens must be those of the plain, synchronous loop.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import Engine, SamplingParams
from engine.build import assemble
from engine.config import EngineConfig
from engine.core import Core
from engine.errors import EngineDead
from engine.messages import End, Event, Tell
from engine.model.batch import StepResult
from engine.model.config import ModelConfig
from engine.model.decoder import Decoder
from engine.prepare import Preparer
from engine.ranks.group import Group
from engine.schedule.page_pool import PagePool
from engine.schedule.sequence import Admission, Control
from engine.step.graphs import BUCKETS, buckets_for
from engine.step.inputs import PAGE, PLACE, SLOT, StepInputs
from engine.step.launched import ResultBuffers
from engine.text.tokenizer import Tokenizer
from kernels.native import library as native
from kernels.thinking import UNLIMITED, Finish, Record, State, Stop
from tests.checkpoints import write_random_checkpoint
from tests.rounding import decoder_roundings, likely

CPU = torch.device("cpu")
CONTEXT, PAGE_SIZE = 96, 4


def test_buckets() -> None:
    assert BUCKETS == (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256)
    assert buckets_for(1) == (1,) and buckets_for(3) == (1, 2, 4) and buckets_for(64)[-1] == 64
    assert buckets_for(65)[-1] == 80 and buckets_for(1000)[-1] == 256


def test_inputs_take_turns_and_are_padded() -> None:
    inputs = StepInputs(8, dummy_slot=30, dummy_place=600, device=CPU)
    first = inputs.write([4, 2, 9], [(17, 5)], 4)
    assert first[SLOT].tolist() == [4, 2, 9, 30]
    assert first[PLACE].tolist() == [17, 600, 600, 600] and first[PAGE].tolist() == [5, 0, 0, 0]
    hosts = list(inputs._hosts)
    second = inputs.write([1], [], 1)
    assert second.data_ptr() == first.data_ptr(), "a captured step reads one address"
    assert inputs._hosts == hosts[::-1], "the buffer of a copy under way is not written"
    assert second[SLOT].tolist() == [1]


def test_a_third_step_in_flight_is_refused() -> None:
    buffers = ResultBuffers(2, CPU)
    result = StepResult(torch.arange(4 * len(Record), dtype=torch.int32).view(4, -1))
    one = buffers.copy_out([], result)
    two = buffers.copy_out([], result)
    with pytest.raises(EngineDead, match="third step"):
        buffers.copy_out([], result)
    one.read(), two.read()
    buffers.copy_out([], result)


@dataclass(frozen=True)
class World:
    """A tiny decoder that is loaded once; every run gets fresh tables and pages around it."""

    decoder: Decoder
    tokenizer: Tokenizer
    preparer: Preparer
    opener: list[int]

    def core(self, pages: int, overlap: bool, graphs: bool, seqs: int = 5) -> Core:
        config = EngineConfig(
            max_num_seqs=seqs, max_num_batched_tokens=13, overlap=overlap, step_graphs="on" if graphs else "off"
        )
        pool = PagePool(pages + 1, PAGE_SIZE)
        kv = self.decoder.new_kv_cache(pages + 1, PAGE_SIZE)
        return assemble(config, self.decoder, pool, kv, self.tokenizer, CONTEXT, Group.single(CPU))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = write_random_checkpoint(tmp_path_factory.mktemp("tiny"), hidden=32, layers=1, heads=2, kv_heads=1)
    decoder = Decoder.load(folder, ModelConfig.load(folder), Group.single(CPU), CONTEXT)
    tokenizer = Tokenizer.load(folder)
    opener = tokenizer.encode("<|im_start|>think", specials=True)
    return World(decoder, tokenizer, Preparer(tokenizer, "s1", CONTEXT), opener)


@dataclass(frozen=True)
class Ask:
    """A request of random traffic: when it comes, and what happens to it."""

    prompt: tuple[int, ...]
    params: SamplingParams
    start: int
    abort: int | None = None
    control: tuple[int, Control, int] | None = None
    """(steps after the start, what it is told, the budget that goes with SET_BUDGET)"""
    opens: bool = False
    """The model has to open its thinking itself."""


@dataclass
class Got:
    """What one sample committed."""

    tokens: list[int] = field(default_factory=list)
    forced: list[int] = field(default_factory=list)
    finish: int = Finish.RUNNING
    reason: int = Stop.NONE
    thinking: int = 0
    thinking_when_told: int = 0
    """what the host knew"""

    def take(self, event: Event) -> None:
        record = event.record
        if record[Record.TOKEN] >= 0:
            if record[Record.FORCED]:
                self.forced.append(len(self.tokens))
            self.tokens.append(record[Record.TOKEN])
        self.finish, self.reason = record[Record.FINISH], record[Record.STOP_REASON]
        self.thinking = record[Record.THINKING]


def drive(world: World, core: Core, asks: list[Ask], calm: bool = False) -> dict[tuple[int, int], Got]:
    """Run the traffic to its end, checking pages and slots after every step. `calm`: nobody aborts or is told
    anything."""
    got = {(i, s): Got() for i, ask in enumerate(asks) for s in range(ask.params.n)}
    for step in range(4000):
        for i, ask in enumerate(asks):
            if ask.start == step:
                opener = [] if ask.opens else world.opener
                prepared = world.preparer.prepare([*ask.prompt, *opener], ask.params)
                core.apply(Admission(i, prepared, 7 + i))
            if not calm and ask.abort is not None and ask.start + ask.abort == step:
                core.apply(End(i))
            if not calm and ask.control is not None and ask.start + ask.control[0] == step:
                core.apply(Tell(i, *ask.control[1:]))
                for sample in range(ask.params.n):
                    got[i, sample].thinking_when_told = got[i, sample].thinking
        if core.has_work:
            for event in core.step():
                got[event.sequence.key].take(event)
            core.check()
        elif step > max(ask.start for ask in asks):
            break
    assert not core.has_work
    return got


def traffic(eos: tuple[int, ...]) -> st.SearchStrategy[list[Ask]]:
    """Up to eight requests that come close together, so that they run out of pages and slots."""
    params = st.builds(
        lambda limit, budget, waits, hot, n, top, ends: SamplingParams(
            max_tokens=limit,
            thinking_token_budget=budget,
            thinking_extensions=waits,
            temperature=0.9 * hot,
            n=n,
            logprobs=top,
            repetition_penalty=1.2 if hot and budget else 1.0,
            logit_bias=dict.fromkeys(eos, 3.0) if ends else None,
        ),
        st.integers(12, 40),
        st.none() | st.integers(0, 20),
        st.integers(0, 2),
        st.booleans(),
        st.integers(1, 2),
        st.none() | st.integers(1, 3),
        st.booleans(),
    )
    asks = st.builds(
        lambda prompt, params, start, abort, control, when, budget: Ask(
            tuple(prompt), params, start, abort, None if control is None else (when, control, budget)
        ),
        st.lists(st.integers(3, 60), min_size=1, max_size=20),
        params,
        st.integers(0, 8),
        st.sampled_from([None, None, None, 0, 3, 9, 17, 25]),
        st.sampled_from([None, *Control]),
        st.integers(0, 15),
        st.integers(0, 20),
    )
    return st.lists(asks, min_size=4, max_size=8)


def test_random_traffic_commits_what_the_plain_loop_commits(world: World) -> None:
    """Padded, one step behind, preempted, aborted and told things in flight, against one calm synchronous run."""
    seen: Counter[str] = Counter()
    extension = len(world.tokenizer.encode("Wait")) - 1

    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(asks=traffic(world.tokenizer.eos_token_ids), overlap=st.booleans(), pages=st.sampled_from([17, 20, 200]))
    def run(asks: list[Ask], overlap: bool, pages: int) -> None:
        want = drive(world, world.core(200, overlap=False, graphs=False), asks, calm=True)
        core = world.core(pages, overlap=overlap, graphs=True)
        got = drive(world, core, asks)
        if overlap:
            seen["preemptions"] += core.scheduler.counters.preemptions
        for key, sample in got.items():
            ask = asks[key[0]]
            if overlap:
                seen[f"finish {sample.finish}"] += 1
                seen["aborts"] += ask.abort is not None and sample.finish == Finish.RUNNING
                seen[str(ask.control and ask.control[1])] += 1
            compare(ask, sample, want[key], overlap + extension * (ask.params.thinking_extensions > 0))

    run()
    names = ("preemptions", "aborts", f"finish {Finish.STOP}", f"finish {Finish.LENGTH}", *map(str, Control))
    assert all(seen[name] >= 5 for name in names), f"too tame to show anything: {seen}"


def compare(ask: Ask, got: Got, want: Got, late: int) -> None:
    """`got` is `want`, as far as nobody interfered. `late`: thinking tokens that may follow when it is told to end: one
    in flight, and what is left of an extension."""
    if ask.abort is None and ask.control is None:
        assert got == want, ask
        return
    same = next((at for at, (a, b) in enumerate(zip(got.tokens, want.tokens, strict=False)) if a != b), None)
    if same is not None:  # only what it was told can have changed it, and that shows in a forced token first
        assert ask.control is not None and (same in got.forced or same in want.forced), ask
    if ask.control is None:
        return
    when, control, budget = ask.control
    if ask.abort is None and when == 0 and control is Control.END_THINKING:
        assert got.thinking == 0 and got.forced, ask
    if control is Control.SET_BUDGET:
        assert got.thinking <= max(budget, got.thinking_when_told + late), ask


@pytest.mark.parametrize("overlap", [False, True])
def test_a_late_eos_costs_one_row_and_no_token(world: World, overlap: bool) -> None:
    """The host reads an EOS one step late: the step in flight commits nothing for it, and the next request gets its
    slot and pages unharmed."""
    eos = dict.fromkeys(world.tokenizer.eos_token_ids, 3.0)
    params = SamplingParams(max_tokens=40, thinking_format="none", temperature=1.0, logit_bias=eos)
    asks = [Ask((5, 6, 7, i), params, 2 * i) for i in range(12)]
    plain = world.core(200, overlap=False, graphs=False, seqs=2)
    core = world.core(200, overlap=overlap, graphs=True, seqs=2)
    got = drive(world, core, asks)
    assert got == drive(world, plain, asks)
    drawn = sum(len(sample.tokens) for sample in got.values())
    late = sum(sample.finish == Finish.STOP for sample in got.values())
    assert late >= 8 and len({len(sample.tokens) for sample in got.values()}) > 4, "ends at many lengths"
    # Prompts draw the first tokens. What ends by max_tokens the host knows in time.
    assert core.scheduler.counters.decode_tokens == drawn - len(asks) + overlap * late
    assert core.scheduler.pool.available == 200


def test_the_dummy_request_stays_as_it_is(world: World) -> None:
    core = world.core(200, overlap=True, graphs=True, seqs=16)
    tables = core.runner.tables
    before = tables.machine.state[tables.dummy].clone()
    drive(world, core, [Ask((5, 6, i), SamplingParams(max_tokens=20 + i, temperature=0.5), i) for i in range(11)])
    assert torch.equal(tables.machine.state[tables.dummy], before)
    assert before[State.FINISH] == Finish.STOP and not tables.blocks[tables.dummy].any()
    for keys, values in core.runner.kv:
        assert torch.isfinite(keys[0]).all() and torch.isfinite(values[0]).all()


def test_graphs_are_kept_by_bucket_and_need_and_dropped_with_the_tables(world: World) -> None:
    core = world.core(200, overlap=True, graphs=True, seqs=5)
    report = core.runner.capture_report
    assert report.graphs == 0, "lazy"
    drive(world, core, [Ask((5, 6), SamplingParams(max_tokens=20), 0)])
    assert report.graphs == 1
    drive(world, core, [Ask((5, 6), SamplingParams(max_tokens=20, thinking_extensions=2), 0)])
    assert report.graphs == 1, "the masked draw is always there"
    drive(world, core, [Ask((5, 6, i), SamplingParams(max_tokens=20), 0) for i in range(3)])
    assert report.graphs == 2, "a bucket of four"
    drive(world, core, [Ask((5, 6), SamplingParams(max_tokens=20, temperature=1.0), 0)])
    assert report.graphs == 3
    before = core.runner.tables.for_step(0)
    drive(world, core, [Ask((5, 6), SamplingParams(max_tokens=20, logit_bias={9: 1.0}), 0)])
    assert core.runner.tables.for_step(0) is not before, "the first bias makes a table"
    drive(world, core, [Ask((5, 6), SamplingParams(max_tokens=20), 0)])
    assert report.graphs == 5, "one for biases, and the first one again"


@pytest.mark.parametrize("told", [25, None])
def test_a_budget_that_was_told_holds_after_a_preemption(world: World, told: int | None) -> None:
    """Seated again, a sequence gets its plan's parameters, and then what it was told since."""
    banned = tuple(world.tokenizer.encode("<|im_start|>", specials=True))
    own = 10 if told is None else None
    params = [
        SamplingParams(max_tokens=38, banned_token_ids=banned, ignore_eos=True, thinking_token_budget=budget)
        for budget in (None, own)
    ]
    unlimited = UNLIMITED if told is None else told
    asks = [Ask((9, 11), params[0], 0), Ask((9, 12), params[1], 0, control=(3, Control.SET_BUDGET, unlimited))]
    core = world.core(12, overlap=False, graphs=True)
    got = drive(world, core, asks)
    assert core.scheduler.counters.preemptions >= 1
    assert got[1, 0].thinking == (told or got[0, 0].thinking)
    assert got[1, 0].reason == (Stop.MAX_TOKENS if told is None else Stop.BUDGET)


END = "<|im_start|><|endoftext|>answer"


def custom(*triggers: str, opener: str = "<|im_start|>think") -> dict[str, Any]:
    return {"thinking_format": {"opener": opener, "end": END, "budget_end": END, "triggers": triggers}}


GROWS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a longer forced text": ({}, {"thinking_extensions": 2, "thinking_extension_str": "Wait, " * 12}),
    "more triggers": (custom("<|im_start|>"), custom("<|im_start|>", "<|endoftext|>")),
    "more stop tokens": ({"stop_token_ids": (3,)}, {"stop_token_ids": tuple(range(3, 90))}),
    "a first bias": ({}, {"banned_token_ids": tuple(range(3, 60))}),
    "a first penalty": ({}, {"repetition_penalty": 1.8, "presence_penalty": 1.5}),
    "a longer trigger": (custom("<|im_start|><|endoftext|>"), custom(END)),
    "a longer opener": tuple(custom("<|endoftext|>", opener=text) for text in ("<|im_start|>", "<|im_start|>answer")),
}
"""Parameters of two requests, the second of which replaces a slot table or a constant that steps are captured with."""


@pytest.mark.parametrize("grows", GROWS)
def test_a_step_captured_before_a_table_was_replaced_is_not_replayed(world: World, grows: str) -> None:
    often = world.tokenizer.encode("<|im_start|><|endoftext|>answer", specials=True)
    common: dict[str, Any] = {"temperature": 1.0, "max_tokens": 80, "ignore_eos": True}
    if grows != "a first bias":
        common["logit_bias"] = dict.fromkeys(often, 4.0)
    first, second = (
        [Ask((9, 11, i), SamplingParams(**common | own), 0, opens="opener" in grows) for i in range(4)]
        for own in GROWS[grows]
    )
    got, want = [], []
    for graphs, tokens in ((True, got), (False, want)):
        core = world.core(200, overlap=False, graphs=graphs)
        made = []
        for asks in (first, second, first):
            tokens.append(drive(world, core, asks))
            made.append(core.runner.capture_report.graphs)
        # The native machine matches whatever is there; a kernel is compiled for the longest delimiter of its time.
        assert not graphs or made[1] > made[0], "the same steps, captured again"
    assert got == want
    assert want[0] == want[2] != want[1]


def test_capture_at_start_covers_greedy_and_sampled(tmp_path: Path) -> None:
    folder = write_random_checkpoint(tmp_path, hidden=32, layers=1, heads=2, kv_heads=1)
    options = {"device": "cpu", "max_model_len": 128, "max_num_seqs": 9, "step_graphs": "on"}
    with Engine(folder, capture_at_start=True, overlap=True, **options) as engine:
        report = engine._host.core.runner.capture_report
        assert report.graphs == 2 * len(buckets_for(9)) == 10
        params = [SamplingParams(max_tokens=20, temperature=0.5 * (i % 2), seed=i) for i in range(9)]
        outputs = engine.generate([f"q{i}" for i in range(9)], params)
        assert report.graphs == 10 and engine.stats()["graphs"] == 10
    with Engine(folder, **{**options, "step_graphs": "off"}) as engine:
        plain = engine.generate([f"q{i}" for i in range(9)], params)
        assert engine.stats()["graphs"] == 0
    assert [o.outputs[0].token_ids for o in outputs] == [o.outputs[0].token_ids for o in plain]


def test_what_a_step_may_do_beyond_its_needs_changes_nothing(world: World) -> None:
    """Graphs round needs up: the masked draw, more log-probabilities."""
    params = [SamplingParams(max_tokens=25, logprobs=3 if i else None, thinking_token_budget=8) for i in range(3)]
    asks = [Ask((9, i), params[i], 0) for i in range(3)]
    events: dict[bool, list[tuple[float | None, int]]] = {}
    for graphs in (False, True):
        core = world.core(200, overlap=False, graphs=graphs)
        seen = events[graphs] = []
        for i, ask in enumerate(asks):
            prepared = world.preparer.prepare([*ask.prompt, *world.opener], ask.params)
            core.apply(Admission(i, prepared, i))
        while core.has_work:
            seen += [(event.logprob, len(event.top)) for event in core.step()]
    assert {top for _, top in events[True]} == {0, 3}
    if native.LOADED:
        assert events[True] == events[False]
        return
    for (ours, top), (theirs, wanted) in zip(events[True], events[False], strict=True):
        assert top == wanted and (ours is None) == (theirs is None)
        # torch sums the products of a padded batch in another order
        off = 2 * likely(decoder_roundings(world.decoder.config, CONTEXT) + world.decoder.config.vocab_size)
        assert ours is None or ours == pytest.approx(theirs, rel=off, abs=off)
