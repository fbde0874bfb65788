"""The whole engine: tokens of transformers under every schedule, pressure on the pool, handles, errors."""

import json
import random
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine import Delta, Engine, EngineDead, Handle, InputError, RequestOutput, SamplingParams
from engine.model.config import ModelConfig
from tests.checkpoints import write_random_checkpoint
from tests.engine.shapes import SHAPES
from tests.rounding import decoder_roundings, likely

LENGTHS, NEW_TOKENS = (1, 9, 40, 112, 180, 3), 64
PLAIN = SamplingParams(max_tokens=NEW_TOKENS, ignore_eos=True, thinking_format="none")


def prompts_of(vocab: int, lengths: tuple[int, ...], seed: int = 0) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(3, vocab) for _ in range(length)] for length in lengths]


def tokens(outputs: list[RequestOutput]) -> list[list[int]]:
    return [sample.token_ids for output in outputs for sample in output.outputs]


def behind_transformers(directory: Path, prompts: list[list[int]], texts: list[list[int]], vocab: int) -> float:
    """How far the logit of any token is below the largest that transformers has there, by what rounding may do to two
    logits; padded vocabulary rows excluded as the engine does."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    config, worst = ModelConfig.load(directory), 0.0
    for prompt, text in zip(prompts, texts, strict=True):
        assert len(text) == NEW_TOKENS
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1, :vocab]
        behind = logits.amax(1) - logits.gather(1, torch.tensor(text)[:, None])[:, 0]
        allowed = 4 * likely(decoder_roundings(config, len(prompt) + NEW_TOKENS)) * logits.abs().max()
        worst = max(worst, float(behind.max() / allowed))
    return worst


@pytest.mark.parametrize("shape", [s for s in SHAPES if s != "yarn_parameters"])
def test_greedy_tokens_equal_transformers_with_chunks_and_preemption(shape: str, tmp_path: Path) -> None:
    """Uneven prompts in one batch, prefill in chunks of at most 16, a pool for one and a half sequences."""
    directory = write_random_checkpoint(tmp_path, **SHAPES[shape])
    with Engine(directory, device="cpu", dtype="float32", kv_cache_tokens=272, max_num_batched_tokens=16) as engine:
        vocab = engine.tokenizer.size
        prompts = prompts_of(vocab, LENGTHS)
        ours = tokens(engine.generate(prompts, PLAIN))
        assert engine.stats()["preemptions"] > 0, "the pool was meant to be too small"
        engine.check()
        assert engine.stats()["pages_free"] == engine.stats()["pages_total"]
    assert behind_transformers(directory, prompts, ours, vocab) <= 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_checkpoint(tmp_path_factory.mktemp("random"), max_positions=40_960)


SCHEDULES = {
    "small pool": {"kv_cache_tokens": 512},
    "chunks": {"max_num_batched_tokens": 16},
    "one slot": {"max_num_seqs": 1},
    "overlap": {"overlap": True},
    "overlap and small pool": {"overlap": True, "kv_cache_tokens": 512, "max_num_batched_tokens": 24},
    "no prefix cache": {"enable_prefix_caching": False},
    "page of 5": {"page_size": 5, "kv_cache_tokens": 600},
    "two ranks": {"tensor_parallel_size": 2, "step_graphs": "on"},
    "captured": {"step_graphs": "on", "overlap": True},
    "captured and small pool": {"step_graphs": "on", "overlap": True, "kv_cache_tokens": 512},
}


@pytest.fixture(scope="module")
def mixed_results(checkpoint: Path) -> list[list[int]]:
    with Engine(checkpoint, device="cpu", dtype="float32", max_model_len=400) as engine:
        return run_mixed_traffic(engine)


def run_mixed_traffic(engine: Engine) -> list[list[int]]:
    """Greedy and sampled, every filter and penalty, budgets, extensions, forks, equal prompts."""
    params = []
    for i in range(24):
        sampled = {"temperature": 0.8, "top_p": 0.9, "top_k": 40, "presence_penalty": 0.3, "repetition_penalty": 1.1}
        params.append(
            SamplingParams(
                max_tokens=70 + i,
                seed=i,
                n=1 + i % 3,
                logprobs=2 if i % 5 == 0 else None,
                thinking_token_budget=3 * i if i % 4 else None,
                thinking_extensions=i % 3,
                **(sampled if i % 2 else {}),
            )
        )
    return tokens(engine.generate([f"question {i // 2} " * (1 + i % 5) for i in range(24)], params))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_no_schedule_changes_a_token(schedule: str, checkpoint: Path, mixed_results: list[list[int]]) -> None:
    options = {"max_model_len": 400, **SCHEDULES[schedule]}
    with Engine(checkpoint, device="cpu", dtype="float32", **options) as engine:
        assert run_mixed_traffic(engine) == mixed_results
        stats = engine.stats()
        engine.check()
        assert stats["pages_free"] == stats["pages_total"] and stats["running"] == stats["waiting"] == 0
    assert (stats["preemptions"] > 0) == ("small pool" in schedule or schedule == "page of 5")
    assert stats["forks"] > 0 or schedule == "one slot"


def test_64_requests_for_32768_tokens_each_share_a_pool_of_4096(checkpoint: Path) -> None:
    """Pages go to what exists, not to max_tokens. Each request ends by itself at a token that its text holds."""
    with Engine(checkpoint, device="cpu", dtype="float32", max_model_len=32_768 + 64) as engine:
        prompts = prompts_of(engine.tokenizer.size, tuple(5 + i % 23 for i in range(64)), seed=1)
        free = tokens(
            engine.generate(
                prompts,
                [SamplingParams(max_tokens=60 + 2 * i, ignore_eos=True, thinking_format="none") for i in range(64)],
            )
        )
    stops = [ids[-1] for ids in free]
    params = [
        SamplingParams(max_tokens=32_768, ignore_eos=True, thinking_format="none", stop_token_ids=(stop,))
        for stop in stops
    ]
    with Engine(checkpoint, device="cpu", dtype="float32", kv_cache_tokens=4_096) as engine:
        assert engine.context == 4_096
        outputs = engine.generate(prompts, params)
        assert all(o.outputs[0].finish_reason == "stop" for o in outputs)
        for ids, stop, constrained in zip(free, stops, tokens(outputs), strict=True):
            assert constrained == ids[: ids.index(stop) + 1]
        engine.check()
        assert engine.stats()["pages_free"] == 64
        assert engine.stats()["preemptions"] >= 0


def test_samples_fork_the_prompt_and_differ(checkpoint: Path) -> None:
    with Engine(checkpoint, device="cpu", dtype="float32", max_model_len=400) as engine:
        params = SamplingParams(n=6, temperature=1.0, seed=3, max_tokens=40, thinking_format="none")
        (output,) = engine.generate(prompts_of(300, (90,)), params)
        assert engine.stats()["forks"] == 5 and engine.stats()["prefill_tokens"] == 90
        assert len({tuple(sample.token_ids) for sample in output.outputs}) == 6
        again = engine.generate(prompts_of(300, (90,)), params)
        assert tokens(again) == tokens([output]), "the prefix cache changes nothing"
        assert again[0].usage.cached_tokens == 89, "the last token is computed, and nothing before it"


def test_logprobs_are_the_models_own(checkpoint: Path) -> None:
    with Engine(checkpoint, device="cpu", dtype="float32", max_model_len=400) as engine:
        params = SamplingParams(max_tokens=30, thinking_token_budget=10, logprobs=4, repetition_penalty=1.3)
        (output,) = engine.generate(["why"], params)
    sample = output.outputs[0]
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([output.prompt_token_ids + sample.token_ids])).logits[0, :, : engine.tokenizer.size]
    own = torch.log_softmax(logits[len(output.prompt_token_ids) - 1 : -1], -1)
    assert sample.logprobs is not None and sample.forced
    roundings = decoder_roundings(ModelConfig.load(checkpoint), len(logits)) + logits.shape[1]
    bound = 2 * likely(roundings) * float(logits.abs().max() + own.abs().max())
    for at, entry in enumerate(sample.logprobs):
        assert entry.token_id == sample.token_ids[at] and entry.forced == (at in sample.forced)
        assert abs(entry.logprob - own[at, entry.token_id].item()) < bound
        assert [token for token, _ in entry.top] == own[at].topk(4).indices.tolist()
    free = [entry.logprob for entry in sample.logprobs if not entry.forced]
    assert sample.cumulative_logprob == pytest.approx(sum(free))


def test_handles_stream_abort_and_take_control(checkpoint: Path) -> None:
    with Engine(checkpoint, device="cpu", dtype="float32", max_model_len=4_000) as engine:
        long = SamplingParams(max_tokens=3_000, ignore_eos=True)
        endless, closed, aborted = (engine.submit(f"q{i}", long) for i in range(3))
        deltas: list[Delta] = []
        for delta in closed:
            deltas.append(delta)
            if len(deltas) == 20:
                closed.end_thinking()
                endless.set_budget(5)
                aborted.abort()
        done = closed.result().outputs[0]
        assert done.thinking.stop_reason == "client" and done.finish_reason == "length"
        assert "".join(d.text for d in deltas) == done.text
        assert [t for d in deltas for t in d.token_ids] == done.token_ids
        assert [f for d in deltas for f in d.forced] == done.forced
        assert aborted.result(timeout=60).outputs[0].finish_reason == "abort"
        assert endless.result(timeout=60).outputs[0].thinking.stop_reason == "budget"
        endless.abort()  # over: nothing happens
        engine.check()


def test_deltas_read_late_say_what_was_forced(checkpoint: Path) -> None:
    """Text is made in runs while nobody looks; each piece still comes with its own tokens."""
    with Engine(checkpoint, device="cpu", dtype="float32", max_model_len=400) as engine:
        handle = engine.submit("why", SamplingParams(max_tokens=60, thinking_token_budget=20, thinking_extensions=1))
        done = handle.result(timeout=60).outputs[0]
        deltas = list(handle)
        tokenizer = engine.tokenizer
    assert [t for d in deltas for t in d.token_ids] == done.token_ids and len(deltas) < len(done.token_ids)
    assert [f for d in deltas for f in d.forced] == done.forced
    all_forced = [d for d in deltas if d.text and len(d.forced) == len(d.token_ids) > 0]
    assert all_forced and all(d.text == tokenizer.decode(d.token_ids) for d in all_forced)
    assert sum(len(d.forced) for d in all_forced) == len(done.forced)


def test_a_stream_that_was_read_ends_again(checkpoint: Path) -> None:
    with Engine(checkpoint, device="cpu", dtype="float32", max_model_len=400) as engine:
        handle = engine.submit("why", SamplingParams(max_tokens=20))
        first = list(handle)
        again: list[Delta] = []
        reader = threading.Thread(target=lambda: again.extend(handle), daemon=True)
        reader.start()
        reader.join(timeout=10)
        assert not reader.is_alive() and again == first[-1:]


def test_a_callback_that_raises_harms_nobody(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fail(handle: Handle) -> None:
        raise ZeroDivisionError("the caller's own mistake")

    with Engine(checkpoint, device="cpu", dtype="float32", max_model_len=400) as engine:
        long, short = (engine.submit("why", SamplingParams(max_tokens=n)) for n in (300, 20))
        called: list[Handle] = []
        short.add_done_callback(fail)
        short.add_done_callback(called.append)
        assert short.result(timeout=60).outputs and long.result(timeout=60).outputs
        assert called == [short]
        assert len(engine.generate(["still there?"], SamplingParams(max_tokens=20))) == 1
    assert "the caller's own mistake" in caplog.text


@pytest.mark.parametrize("temperature", [1e-6, 1e-38, 1e-40, 1e-45, 5e-324])
def test_a_temperature_next_to_nothing_is_greedy(temperature: float, checkpoint: Path) -> None:
    """Dividing by it would overflow float32: the first of several infinite logits is not the largest."""
    with Engine(checkpoint, device="cpu", dtype="float32", max_model_len=400) as engine:
        prompts = prompts_of(engine.tokenizer.size, (3, 4, 5, 6))
        greedy = tokens(engine.generate(prompts, PLAIN))
        for filters in ({}, {"top_k": 5, "top_p": 0.9, "min_p": 0.1}):
            cold = replace(PLAIN, temperature=temperature, seed=1, **filters)
            assert tokens(engine.generate(prompts, cold)) == greedy


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused(tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path, vocab=300)
    with pytest.raises(InputError, match=r"config\.json: vocab_size is 300 and the tokenizer has \d+ tokens"):
        Engine(directory, device="cpu", dtype="float32", max_model_len=400)


def test_a_checkpoint_whose_responses_do_not_end_warns_at_load(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(checkpoint, tmp_path / "model")
    Engine(checkpoint, kv_cache_tokens=512, thinking_format="s1").close()
    assert capsys.readouterr().err == ""
    settings = json.loads((tmp_path / "model/tokenizer_config.json").read_text())
    (tmp_path / "model/tokenizer_config.json").write_text(json.dumps({**settings, "eos_token": "<|endoftext|>"}))
    for name in ("config.json", "generation_config.json"):
        written = json.loads((tmp_path / "model" / name).read_text())
        (tmp_path / "model" / name).write_text(json.dumps({**written, "eos_token_id": None}))
    Engine(tmp_path / "model", kv_cache_tokens=512, thinking_format="s1").close()
    told = capsys.readouterr().err
    assert told.startswith("warning: ") and told.count("\n") == 1
    assert "model: the chat template ends turns with '<|im_end|>'" in told and "generation_config.json" in told


def test_requests_from_many_threads(checkpoint: Path) -> None:
    with Engine(checkpoint, device="cpu", dtype="float32", max_model_len=400, max_num_seqs=8) as engine:
        params = SamplingParams(max_tokens=30, thinking_token_budget=8)
        alone = tokens(engine.generate([f"q{i}" for i in range(12)], params))
        found: dict[int, list[int]] = {}

        def ask(i: int) -> None:
            found[i] = engine.submit(f"q{i}", params).result(timeout=60).outputs[0].token_ids

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found[i] for i in range(12)] == alone


def test_closing_ends_what_runs_and_refuses_what_comes(checkpoint: Path) -> None:
    engine = Engine(checkpoint, device="cpu", dtype="float32", max_model_len=4_000)
    handle = engine.submit("q", SamplingParams(max_tokens=3_000, ignore_eos=True))
    engine.close()
    assert handle.result(timeout=10).outputs[0].finish_reason == "abort"
    with pytest.raises(EngineDead, match="closed"):
        engine.submit("q")
    engine.close()


def test_a_group_of_ranks_is_alone_in_its_process_and_can_follow_another_one(checkpoint: Path) -> None:
    """Beside it there may be engines of one rank. Closed is closed: the next group starts as the first did, with as
    many threads to share."""
    options = {"device": "cpu", "dtype": "float32", "max_model_len": 400}
    params = SamplingParams(max_tokens=30, thinking_token_budget=8)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(2):
            with Engine(checkpoint, tensor_parallel_size=2, **options) as engine:
                assert torch.get_num_threads() == 1
                with pytest.raises(InputError, match=r"already belongs to a group of ranks .*; close that first"):
                    Engine(checkpoint, tensor_parallel_size=2, **options)
                with Engine(checkpoint, **options) as single:
                    assert tokens(single.generate(["q"], params)) == tokens(engine.generate(["q"], params))
            assert torch.get_num_threads() == 2
            assert not torch.distributed.is_initialized()
    finally:
        torch.set_num_threads(before)


def test_nan_logits_end_one_request_with_an_error(tmp_path: Path) -> None:
    directory = write_random_checkpoint(tmp_path)
    with Engine(directory, device="cpu", dtype="float32", max_model_len=400) as engine:
        # Poison one embedding row: whoever reads that token gets NaN everywhere, the rest of the batch does not.
        engine._host.core.runner.model.embedding[7] = float("nan")
        params = SamplingParams(max_tokens=20, ignore_eos=True, thinking_format="none", banned_token_ids=(7,))
        good, bad = engine.generate([[9, 8], [9, 7]], params)
        assert good.outputs[0].finish_reason == "length"
        assert bad.outputs[0].finish_reason == "error" and "NaN" in (bad.outputs[0].error or "")
        assert bad.outputs[0].token_ids == []


@pytest.mark.parametrize("prompts", ["why?", {"messages": [{"role": "user", "content": "why?"}]}, b"why?"])
def test_one_prompt_in_place_of_a_list_is_refused(prompts: object, checkpoint: Path) -> None:
    """A string is a sequence too: it would have been a request for each of its letters."""
    with Engine(checkpoint, device="cpu", dtype="float32", max_model_len=400) as engine:
        with pytest.raises(InputError, match=r"generate takes a list of prompts; give \[prompt\]"):
            engine.generate(prompts)  # type: ignore[arg-type]
        for params in ({"max_tokens": 5}, 5):
            with pytest.raises(InputError, match=r"params .*; give SamplingParams"):
                engine.generate(["why?"], params)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:9"}, "device is 'cuda:9'"),
        ({"device": "tpu"}, "device is 'tpu'"),
        ({"max_model_len": 99_999}, "max_model_len is 99999 and the model's positions end at 40960"),
        ({"kv_cache_tokens": 7}, "kv_cache_tokens is 7, less than a page of 64"),
        ({"dtype": "int4"}, "dtype is 'int4'"),
        ({"max_num_seqs": 0}, "max_num_seqs is 0"),
        ({"pagesize": 4}, "unknown option 'pagesize'"),
        ({"thinking_format": "s2"}, "thinking_format is"),
        ({"thinking_format": "sky"}, "give auto, s1, qwen3"),
        ({"tensor_parallel_size": 3}, "tensor_parallel_size 3 does not split this model"),
        ({"step_graphs": "yes"}, "step_graphs is 'yes'; give one of auto, on, off"),
        ({"kv_cache_dtype": "int8"}, "kv_cache_dtype is 'int8'"),
        ({"quantization": "int4"}, "quantization is 'int4'"),
        ({"one_shot_all_reduce": True}, "one_shot_all_reduce is set and there is one rank, or the device is the CPU"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], message: str, checkpoint: Path) -> None:
    if options.get("device") == "cuda:9" and torch.cuda.device_count() > 9:
        pytest.skip("this machine really has ten GPUs")
    with pytest.raises(InputError, match=message):
        Engine(checkpoint, **{"device": "cpu", **options})


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ([1, 99_999], {}, r"prompt_token_ids\[1\] is 99999"),
        ([1, -1], {}, r"prompt_token_ids\[1\] is -1"),
        ([], {}, "no tokens"),
        ([5] * 400, {}, "400 tokens and the context holds 400"),
        ({"message": []}, {}, "give {'messages'"),
        ({"messages": None}, {}, "messages is not a non-empty list"),
        ("", {}, "the prompt is empty"),
        (b"bytes", {}, "the prompt is bytes; give text"),
        (None, {}, "the prompt is NoneType; give text"),
        (7, {}, "the prompt is int; give text"),
        ([5.0], {}, r"prompt_token_ids\[0\] is 5.0"),
        ("q", {"allowed_token_ids": (321,), "thinking_extensions": 1}, "allowed_token_ids .* thinking_extensions"),
        (
            "q",
            {"allowed_token_ids": (321, 322, 9), "banned_token_ids": (9,), "min_thinking_tokens": 1},
            "allowed_token_ids .* min_thinking_tokens",
        ),
        ("q", {"max_tokens": 3}, "max_tokens is 3 and closing the thinking takes"),
        ("q", {"stop_token_ids": (10**6,)}, r"stop_token_ids\[0\]"),
        ("q", {"thinking_extension_str": "<|im_start|>"}, "thinking_extension_str"),
    ],
)
def test_bad_requests_are_named(prompt: object, params: dict[str, object], message: str, checkpoint: Path) -> None:
    with (
        Engine(checkpoint, device="cpu", dtype="float32", max_model_len=400) as engine,
        pytest.raises(InputError, match=message),
    ):
        engine.submit(prompt, SamplingParams(**params))  # type: ignore[arg-type]
