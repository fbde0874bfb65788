"""Log-probabilities of prompts: against transformers, under every schedule, and beside requests that draw and score."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine import Engine, EngineDead, InputError, SamplingParams
from engine.messages import Event, Seen, decode_commands, decode_events, encode_commands, encode_events
from engine.model.batch import READ_AT_ONCE
from engine.model.config import ModelConfig
from engine.request import Logprob
from engine.schedule.sequence import Admission
from kernels.dry_run import DryRun
from tests.checkpoints import write_random_checkpoint
from tests.engine.dry import DryCore
from tests.engine.shapes import SHAPES
from tests.engine.test_engine import prompts_of, tokens
from tests.engine.test_scoring import steps_of, write_scorer
from tests.rounding import decoder_roundings, likely

NANO = Path(__file__).parents[2] / "models" / "s1-nano"
LENGTHS, TOPS = (2, 9, 40, 150, 250, 65), (0, 3, 1, 7, 0, 64)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("random"))


@pytest.fixture(scope="module")
def engine(checkpoint: Path) -> Iterator[Engine]:
    """With steps of fewer tokens than most prompts have."""
    with Engine(checkpoint, device="cpu", dtype="float32", max_num_batched_tokens=100) as engine:
        yield engine


def asked(engine: Engine) -> list[list[Logprob]]:
    """Prompts of `LENGTHS` at once, with `TOPS` alternatives."""
    prompts = prompts_of(engine.tokenizer.size, LENGTHS)
    handles = [engine.submit_prompt_logprobs(prompt, top) for prompt, top in zip(prompts, TOPS, strict=True)]
    return [handle.result() for handle in handles]


def idle(engine: Engine) -> None:
    """Every page and slot is free."""
    engine.generate([[1]], SamplingParams(max_tokens=1))  # the loop is past the step that ended the others
    engine.check()
    stats = engine.stats()
    assert stats["pages_free"] == stats["pages_total"] and stats["running"] == stats["waiting"] == 0


def reference(folder: Path, prompt: list[int], vocab: int) -> tuple[torch.Tensor, float]:
    """Log-probabilities of every next token by transformers [length - 1, vocab], and how far from them rounding may
    take the engine's: a logit and the logarithm of a sum of exponentials, either's, over and over."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([prompt])).logits[0, :-1, :vocab]
    roundings = decoder_roundings(ModelConfig.load(folder), len(prompt)) + vocab
    return torch.log_softmax(logits, 1), float(4 * likely(roundings) * logits.abs().max())


@pytest.mark.parametrize("shape", ["gqa4", "mha_tied", "yarn", "qwen3", "shards"])
def test_they_are_those_of_transformers(shape: str, tmp_path: Path) -> None:
    """In chunks of 16 tokens; `vocab` is smaller than the checkpoint's, whose padding nobody may be likely to draw."""
    folder = write_random_checkpoint(tmp_path, **SHAPES[shape])
    with Engine(folder, device="cpu", dtype="float32", max_num_batched_tokens=16) as engine:
        vocab, found = engine.tokenizer.size, asked(engine)
        idle(engine)
    assert vocab < ModelConfig.load(folder).vocab_size
    for prompt, top, entries in zip(prompts_of(vocab, LENGTHS), TOPS, found, strict=True):
        exact, bound = reference(folder, prompt, vocab)
        assert bound < 0.01 and [entry.token_id for entry in entries] == prompt[1:]
        ours = torch.tensor([entry.logprob for entry in entries])
        assert (ours - exact.gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]).abs().max() < bound
        assert {len(entry.top) for entry in entries} == {top}
        if top:
            ids, values = (torch.tensor([[pair[i] for pair in e.top] for e in entries]) for i in range(2))
            assert (values - exact.topk(top).values).abs().max() < bound
            assert (values - exact.gather(1, ids)).abs().max() < bound
            assert all(len({*row}) == top for row in ids.tolist()) and (values.diff(dim=1) <= 0).all()


@pytest.fixture(scope="module")
def calm(engine: Engine) -> list[list[Logprob]]:
    return asked(engine)


SCHEDULES: dict[str, dict[str, Any]] = {
    "at once": {"max_num_batched_tokens": 4096},
    "chunks": {"max_num_batched_tokens": 7},
    "one slot": {"max_num_seqs": 1},
    "overlap": {"overlap": True, "max_num_batched_tokens": 24},
    "no prefix cache": {"enable_prefix_caching": False},
    "page of 5": {"page_size": 5, "kv_cache_tokens": 260},
}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_schedule_changes_a_bit(schedule: str, checkpoint: Path, calm: list[list[Logprob]]) -> None:
    with Engine(checkpoint, device="cpu", dtype="float32", **SCHEDULES[schedule]) as engine:
        assert asked(engine) == calm
        assert asked(engine) == calm, "with a cache that knows the prompts"
        idle(engine)


@pytest.mark.parametrize("overlap", [True, False])
def test_a_prompt_that_lost_its_pages_is_read_anew(checkpoint: Path, calm: list[list[Logprob]], overlap: bool) -> None:
    """Two older requests write, and take the pages of prompts that are read four tokens a step."""
    small: dict[str, Any] = {"page_size": 4, "kv_cache_tokens": 192, "max_num_batched_tokens": 6, "overlap": overlap}
    with Engine(checkpoint, device="cpu", dtype="float32", **small) as engine:
        params = SamplingParams(max_tokens=80, ignore_eos=True, thinking_format="none")
        prompts = prompts_of(engine.tokenizer.size, LENGTHS)
        with engine._lock:  # all before the next step
            writing = [engine.submit(prompts[1], params) for _ in range(2)]
            reading = [engine.submit_prompt_logprobs(prompts[at], TOPS[at]) for at in (3, 2, 5)]
        assert [handle.result() for handle in reading] == [calm[at] for at in (3, 2, 5)]
        assert engine.stats()["preemptions"] > 0, "the pool was meant to be too small"
        first, second = (handle.result().outputs[0].token_ids for handle in writing)
        assert first == second and len(first) == 80
        idle(engine)


def test_two_ranks_find_what_one_finds(checkpoint: Path, calm: list[list[Logprob]]) -> None:
    with Engine(checkpoint, device="cpu", dtype="float32", tensor_parallel_size=2) as engine:
        found = asked(engine)
        idle(engine)
    for prompt, one, two in zip(prompts_of(engine.tokenizer.size, LENGTHS), calm, found, strict=True):
        _, bound = reference(checkpoint, prompt, engine.tokenizer.size)
        assert [entry.token_id for entry in one] == [entry.token_id for entry in two]
        for a, b in zip(one, two, strict=True):
            pairs = [(a.logprob, b.logprob), *((x[1], y[1]) for x, y in zip(a.top, b.top, strict=True))]
            assert max(abs(x - y) for x, y in pairs) < bound


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_likeliest_token_has_the_value_of_the_best_alternative(checkpoint: Path, dtype: str) -> None:
    """To the bit. And a prompt is told of a token what was told when it was drawn."""
    with Engine(checkpoint, device="cpu", dtype=dtype, max_num_batched_tokens=50) as engine:
        prompt = prompts_of(engine.tokenizer.size, (20,))[0]
        params = SamplingParams(max_tokens=100, ignore_eos=True, thinking_format="none", logprobs=2)
        written = engine.generate([prompt], params)[0].outputs[0]
        assert written.logprobs is not None
        entries = engine.prompt_logprobs([*prompt, *written.token_ids], top=2)
        likeliest = 0
        for entry in entries:
            by_id = dict(entry.top)
            assert entry.logprob == by_id.get(entry.token_id, entry.logprob)
            assert (entry.logprob == entry.top[0][1]) == (entry.token_id == entry.top[0][0])
            likeliest += entry.token_id == entry.top[0][0]
        assert likeliest >= 100 and entries[len(prompt) - 1 :] == written.logprobs


def test_requests_that_draw_and_score_beside_them_are_as_they_are_alone(
    engine: Engine, calm: list[list[Logprob]]
) -> None:
    prompt, steps = steps_of(2, 4)
    labels = ("7", "3", "1")
    params = [
        SamplingParams(
            max_tokens=80, ignore_eos=True, seed=n, temperature=float(n % 2), logprobs=n or None, n=1 + n % 2
        )
        for n in range(4)
    ]
    alone = tokens(engine.generate([prompt] * 4, params))
    scores = engine.score(prompt, steps, mark="\n", labels=labels).values
    engine.forget_scores()
    prompts = prompts_of(engine.tokenizer.size, LENGTHS)
    with engine._lock:  # all before the next step
        drawing = [engine.submit(prompt, each) for each in params]
        scoring = engine.submit_score(prompt, steps, mark="\n", labels=labels)
        reading = [engine.submit_prompt_logprobs(*each) for each in zip(prompts, TOPS, strict=True)]
    assert [handle.result() for handle in reading] == calm
    assert scoring.result().values == scores
    assert tokens([handle.result() for handle in drawing]) == alone
    idle(engine)


def test_no_step_makes_more_logits_than_it_may(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = engine._host.core.runner.model, list[int]()
    logits = model.logits

    def counted(hidden: torch.Tensor) -> torch.Tensor:
        rows.append(len(hidden))
        return logits(hidden)

    monkeypatch.setattr(model, "logits", counted)
    assert len(engine.prompt_logprobs([5] * 500)) == 499
    assert max(rows) == READ_AT_ONCE < 100 and sum(rows) == 499


def test_the_prompt_is_that_which_is_written_behind(engine: Engine) -> None:
    for prompt in ("How many?", {"messages": [{"role": "user", "content": "x + 3"}]}, {"text": "Wait, 42"}, [5, 9, 5]):
        ids = list(engine.prepare(prompt).prompt)
        assert engine.prompt_logprobs(prompt) == engine.prompt_logprobs(ids)
        assert [entry.token_id for entry in engine.prompt_logprobs(prompt)] == ids[1:]


def test_a_prompt_may_fill_the_context_and_one_token_has_nothing_before_it(checkpoint: Path) -> None:
    with Engine(checkpoint, device="cpu", max_model_len=64, page_size=8) as engine:
        assert len(engine.prompt_logprobs([7] * 64, 1)) == 63
        steps = engine.stats()["steps"]
        handle = engine.submit_prompt_logprobs([7], 1)
        assert handle.done and handle.result() == [] and engine.stats()["steps"] == steps
        with pytest.raises(InputError, match="prompt has 65 tokens and the context holds 64"):
            engine.prompt_logprobs([7] * 65)
        idle(engine)


@pytest.mark.parametrize(
    ("prompt", "top", "said"),
    [
        ([5, 6], -1, "top is -1"),
        ([5, 6], True, "top is True"),
        ([5, 6], 1.0, "top is 1.0"),
        ([5, 6], "3", "top is '3'"),
        ([5, 6], None, "top is None"),
        ([5, 6], 65, "64, the engine's max_logprobs"),
        ([], 0, "no tokens"),
        ("", 0, "the prompt is empty"),
        ([5, 10**6], 0, r"prompt_token_ids\[1\]"),
        (None, 0, "the prompt is NoneType"),
        ([5] * 600, 0, "context"),
        ({"prompt": "a"}, 0, "messages"),
    ],
)
def test_what_cannot_be_asked_is_refused(engine: Engine, prompt: Any, top: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        engine.submit_prompt_logprobs(prompt, top)


def test_no_more_alternatives_than_the_vocabulary_has(checkpoint: Path) -> None:
    with Engine(checkpoint, device="cpu", max_logprobs=10**6) as engine:
        size = engine.tokenizer.size
        entries = engine.prompt_logprobs([5, 6, 7], size)
        for entry in entries:
            assert {*range(size)} == {token for token, _ in entry.top} and dict(entry.top)[
                entry.token_id
            ] == entry.logprob
            assert torch.tensor([value for _, value in entry.top]).exp().sum().item() == pytest.approx(1, abs=1e-5)
        with pytest.raises(InputError, match=f"the {size} tokens of the vocabulary"):
            engine.prompt_logprobs([5, 6, 7], size + 1)


def test_what_is_asked_and_what_is_found_travel_whole(engine: Engine) -> None:
    admission = Admission(7, engine._preparer.followed([5, 6, 7], 3), 0)
    assert decode_commands(encode_commands([admission], False)) == ([admission], False)
    event = Event(Seen(7, 0, 0, None), [-1, 0], None, ((5, -0.25), (6, -1.5)), (1, -0.25))
    assert decode_events(encode_events([event])) == [event]


def test_a_reward_model_has_none(tmp_path: Path) -> None:
    with (
        Engine(write_scorer(tmp_path, "Qwen2ForProcessRewardModel"), device="cpu") as engine,
        pytest.raises(InputError, match="is a reward model"),
    ):
        engine.prompt_logprobs([1, 2, 3])


def test_nobody_is_left_waiting(checkpoint: Path) -> None:
    """Aborted while it waits and while it runs, in a full queue, behind a closed engine."""
    engine = Engine(checkpoint, device="cpu", max_waiting=40, max_num_batched_tokens=8)
    handles = [engine.submit_prompt_logprobs([seed] * 400) for seed in range(40)]
    with pytest.raises(InputError, match="max_waiting"):
        engine.prompt_logprobs([1, 2])
    for handle in (handles[0], handles[-1]):
        handle.abort()
        with pytest.raises(EngineDead, match="aborted"):
            handle.result(10)
    assert len(handles[1].result()) == 399
    handles[1].abort()
    engine.close()
    assert all(handle.done for handle in handles)
    with pytest.raises(EngineDead):
        handles[30].result(0)
    with pytest.raises(EngineDead, match="closed"):
        engine.prompt_logprobs([1, 2])


def test_threads_ask_at_once(engine: Engine, calm: list[list[Logprob]]) -> None:
    prompts, found = prompts_of(engine.tokenizer.size, LENGTHS), {}

    def ask(number: int) -> None:
        found[number] = engine.prompt_logprobs(prompts[number % 6], TOPS[number % 6])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(18)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(found[number] == calm[number % 6] for number in range(18))
    idle(engine)


def test_the_cuda_path_waits_for_nothing() -> None:
    """On fake tensors: prompts in chunks, beside requests that draw; one copy for the records, three for them."""
    with DryRun() as dry:
        core = DryCore(dry, NANO, max_num_seqs=8, max_num_batched_tokens=96, max_model_len=256)
        core.add([5] * 40, SamplingParams(max_tokens=9, ignore_eos=True))
        core.step()
        pageable, core._copies = dry.counts.pageable, 1 + 3
        for number, (length, top) in enumerate(((120, 0), (90, 5), (2, 1)), 100):
            core.core.apply(Admission(number, core._preparer.followed([7] * length, top), 0))
        events = []
        while core.core.has_work:
            events += core.step()
        core.core.check()
        read = [event for event in events if event.score is not None]
        assert len(read) == 119 + 89 + 1 and {len(event.top) for event in read} == {0, 5, 1}
        assert dry.counts.reads == 0 and dry.counts.pageable == pageable
