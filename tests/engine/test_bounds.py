"""Bounds on what one request and one configuration may ask for: named, and refused before anything is allocated."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

import curate.run
from bench.command import check_numbers
from engine import Engine, InputError, SamplingParams
from engine.build import check_config, check_sizes, resolve_device
from engine.command.arguments import parse
from engine.command.flags import read_flags
from engine.config import EngineConfig
from engine.model.config import ModelConfig
from engine.model.embedded import EMBEDDED
from engine.prepare import Preparer
from engine.ranks.torchrun import torchrun
from engine.text.tokenizer import Tokenizer

HUGE = (2**31, 2**63 - 1, 2**63, 10**30, 10**400)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(EMBEDDED)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"n": 1025}, "n is 1025 and the engine's max_samples 1024; lower it, or raise max_samples"),
        ({"logprobs": 65}, "logprobs is 65 and the engine's max_logprobs 64; lower it, or raise max_logprobs"),
        ({"banned_token_ids": (3,) * 600}, r"banned_token_ids holds 600 ids and the vocabulary \d+; name each once"),
        ({"allowed_token_ids": (3,) * 600}, "allowed_token_ids holds 600 ids"),
        ({"thinking_format": {"opener": "x" * 5000, "end": "b", "budget_end": "b", "triggers": ["t"]}}, "5,000 bytes"),
        ({"thinking_format": {"opener": "a", "end": "b", "budget_end": "b", "triggers": ["t"] * 17}}, "17 triggers"),
    ],
)
def test_what_a_request_may_ask_of_the_engine_is_bounded(params, message, tokenizer):
    with pytest.raises(InputError, match=message):
        Preparer(tokenizer, "s1", 2048).prepare("why", SamplingParams(**params))


def test_the_vocabulary_bounds_logprobs_whatever_the_engine_allows(tokenizer):
    preparer, size = Preparer(tokenizer, "s1", 2048, max_logprobs=10**6), tokenizer.size
    assert preparer.prepare("why", SamplingParams(logprobs=size)).params.logprobs == size
    with pytest.raises(InputError, match=f"logprobs is {size + 1} and the vocabulary has {size} tokens"):
        preparer.prepare("why", SamplingParams(logprobs=size + 1))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"stop_token_ids": (3,) * 1025}, "stop_token_ids holds 1,025 ids; give at most 1,024"),
        ({"thinking_extension_str": "x" * 4097}, "thinking_extension_str has 4,097 bytes; give at most 4,096"),
        ({"thinking_end_str": "é" * 2049}, "thinking_end_str has 4,098 bytes"),
        ({"thinking_extension_str": "\ud800"}, r"thinking_extension_str holds the lone surrogate U\+D800"),
        ({"thinking_end_str": "a\udfff"}, r"thinking_end_str holds the lone surrogate U\+DFFF"),
        ({"repetition_penalty": 1e-30}, "repetition_penalty is 1e-30; give a finite number from 0.01 to 100"),
        ({"seed": 2**63}, "seed"),
    ],
)
def test_what_a_request_may_hold_is_bounded(params, message):
    with pytest.raises(InputError, match=message):
        SamplingParams(**params)


def test_samples_that_wait_share_the_prompt_and_end_at_once():
    with Engine(EMBEDDED, device="cpu", max_num_seqs=2, max_samples=3000) as engine:
        prompt = [5] * 2000
        params = SamplingParams(n=3000, max_tokens=40, temperature=1.0, thinking_format="none")
        handle = engine.submit(prompt, params)
        for _ in zip(range(3), handle, strict=False):
            pass
        sequences = [s for s in engine._host.core.scheduler.waiting if not s.finished]
        assert len({id(s.tokens) for s in sequences}) < 20 < 2900 < len(sequences)
        handle.abort()
        output = handle.result(timeout=60)
        assert {sample.finish_reason for sample in output.outputs} <= {"abort", "length", "stop"}
        assert len(engine.generate([prompt], SamplingParams(max_tokens=8))) == 1
        engine.check()


SIZES = ("max_num_seqs", "max_num_batched_tokens", "max_waiting", "max_samples", "page_size", "kv_cache_tokens")


@pytest.mark.parametrize("value", [*HUGE, -1, 0, 1.5, "7", True])
@pytest.mark.parametrize("name", [*SIZES, "max_model_len", "tensor_parallel_size", "max_logprobs", "seed"])
def test_every_number_of_a_configuration_is_refused_by_name_or_harmless(name, value, tokenizer):
    """Everything up to the first allocation; what passes is no size, or bounded by others."""
    try:
        check_config(EngineConfig(model=str(EMBEDDED), device="cpu", **{name: value}), EMBEDDED, tokenizer)
    except InputError as error:
        told = "page_size" if name == "page_size" else name
        assert str(error).startswith(told) and len(str(error)) < 300 and "\n" not in str(error)
    else:
        assert value in (0, *HUGE[:2]) and name not in {"max_num_seqs", "page_size", "kv_cache_tokens"} - {value}


@pytest.mark.parametrize("name", ["model", "device", "thinking_format", "overlap", "enable_prefix_caching"])
def test_a_configuration_has_the_types_it_says(name):
    with pytest.raises(InputError, match=f"^{name} is 3"):
        EngineConfig(**{name: 3})


@pytest.mark.parametrize("name", ["kv_cache_tokens", "max_num_seqs", "page_size"])
def test_a_size_beyond_memory_is_told_with_both_amounts(name):
    model = ModelConfig.load(EMBEDDED)
    config = EngineConfig(**{name: 2**40})
    with pytest.raises(InputError, match=rf"^{name} is {2**40} and takes [\d,.]+ GiB; 8.0 GiB are free on here, lower"):
        check_sizes(config, model, 8 << 30, 1, "here")
    check_sizes(EngineConfig(), model, 8 << 30, 1, "here")


@pytest.mark.parametrize("device", ["cuda:²", "cuda:", "cuda:-1", "cuda:1:2", "cpu:0", "cuda:" + "9" * 5000, "", "gpu"])
def test_devices_are_ascii(device):
    with pytest.raises(InputError, match=r"device is .*; give auto, cpu, cuda or cuda:N"):
        resolve_device(device)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK"])
@pytest.mark.parametrize("value", ["x", "-1", "²", "1.5", "9" * 5000, "1\n"])
def test_what_torchrun_says_is_read_in_one_place(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"environment variable {name} is .*, no number; unset it") as refused:
        torchrun()
    assert len(str(refused.value)) < 300 and "\n" not in str(refused.value)


def test_ranks_outside_the_world_are_refused(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    assert torchrun() == (0, 1, 0)  # a scheduler's own RANK, and nobody beside this process
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="RANK is 2 and WORLD_SIZE 2"):
        torchrun()
    monkeypatch.setenv("WORLD_SIZE", "0")
    with pytest.raises(InputError, match="WORLD_SIZE is 0"):
        torchrun()


@pytest.mark.parametrize("value", ["-1", "1" + "0" * 30, "9" * 5000, "nan", "inf", "1e400", "²", "x", ""])
@pytest.mark.parametrize(
    "name", [*SIZES, "max_model_len", "tensor_parallel_size", "max_logprobs", "n", "logprobs", "top_p"]
)
def test_every_number_on_the_command_line_is_refused_by_name_in_one_line(name, value):
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(InputError, match=f"{name}|{flag}") as refused:
        arguments = parse(["--prompt", "why", f"{flag}={value}"])
        arguments.engine_config()
        Preparer(Tokenizer.load(EMBEDDED), "s1", 2048).prepare("why", arguments.sampling_params(SamplingParams()))
    assert "\n" not in str(refused.value) and len(str(refused.value)) <= 1000


def test_what_flags_lack_is_one_line():
    with pytest.raises(InputError, match=r"^missing: config; --help"):
        read_flags(curate.run.Arguments, [], "program")
    with pytest.raises(InputError, match=r"^unrecognized options: --forse \(did you mean --force\?\)"):
        read_flags(curate.run.Arguments, ["a.yaml", "--forse"], "program")


@pytest.mark.parametrize("value", [-1, 10**30, float("nan"), float("inf")])
def test_numbers_of_benchmarks_are_bounded(value):
    for given in (value, (1, value)):
        with pytest.raises(InputError, match=r"--tokens is .*; give a number from 0 to 1,000,000,000"):
            check_numbers(SimpleNamespace(tokens=given))


def test_what_is_wrong_in_the_environment_is_one_line() -> None:
    """Of the kernels, which find it while they are imported."""
    wrong = {"S1_KERNELS": "fast", "S1_CPU_LEVEL": "sse\n", "S1_CPU_LIBRARY": "/nowhere.so"}
    command = [sys.executable, "-m", "engine.generate", "--prompt", "hi"]
    run = subprocess.run(command, env={**os.environ, **wrong}, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (2, "error: S1_KERNELS is 'fast'; leave it unset or give 'reference'\n")
    assert run.stdout == ""
