"""`python -m engine.generate` from the command line to the last line of the output file, on scripted checkpoints."""

import io
import json
import os
import pickle
import pty
import queue
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import fields
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import Engine
from engine.command.arguments import parse
from engine.command.jsonl import Origin, read_input
from engine.command.results import ResultsFile
from engine.config import EngineConfig
from engine.errors import InputError
from engine.generate import main
from engine.request import SamplingParams
from engine.run import _finish, _write_finished
from kernels.native import library as native
from tests.conformance.lab import ENDLESS, STORY
from tests.conformance.scripted import write_scripted_checkpoint

ROOT = Path(__file__).parents[2]
SMALL = ["--device", "cpu", "--dtype", "float32", "--kv-cache-tokens", "4096", "--max-num-seqs", "16"]


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Path:
    """Thinks abcde, would go on after Wait with pq, answers ABC; 'Final Answer:' is followed by XY."""
    directory = tmp_path_factory.mktemp("story")
    write_scripted_checkpoint(directory, STORY, max_position_embeddings=256)
    return directory


@pytest.fixture(scope="module")
def endless(tmp_path_factory) -> Path:
    """Thinks until it is told to stop, then answers XY."""
    directory = tmp_path_factory.mktemp("endless")
    write_scripted_checkpoint(directory, ENDLESS, max_position_embeddings=2000)
    return directory


@pytest.fixture
def cli(story, tmp_path, capfd, monkeypatch):
    """Runs one command line in this process, in a folder of its own: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words: object, model: Path = story, pool: int = 4096) -> tuple[int, str, str]:
        small = [*SMALL[:4], "--kv-cache-tokens", str(pool), *SMALL[6:]]
        try:
            code = main(["--model", str(model), *small, *map(str, words)])
        except SystemExit as error:
            code = int(error.code or 0)
        out, err = capfd.readouterr()
        return code, out, err

    return run


def write_lines(path: Path, *records: dict) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_field_is_a_flag(capfd):
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    text = capfd.readouterr().out
    assert ended.value.code == 0
    for field in (*fields(SamplingParams), *fields(EngineConfig)):
        assert re.search(rf"--{field.name.replace('_', '-')}\b", text), field.name
    for field in ("prompt", "input", "output", "resume", "overwrite"):
        assert f"--{field} " in text or f"--{field}," in text


def test_flags_arrive():
    arguments = parse(
        [
            "--prompt",
            "x",
            "--thinking-token-budget",
            "7",
            "--stop",
            "a",
            "b",
            "--logit-bias",
            "3",
            "1.5",
            "--seed",
            "4",
            "--thinking-format",
            "none",
            "--max_num_seqs",
            "3",
            "--ignore-eos",
            "--no-enable-prefix-caching",
        ]
    )
    params, config = arguments.sampling_params(SamplingParams(top_k=9)), arguments.engine_config()
    assert params == SamplingParams(
        top_k=9,
        thinking_token_budget=7,
        stop=("a", "b"),
        logit_bias={3: 1.5},
        seed=4,
        thinking_format="none",
        ignore_eos=True,
    )
    assert (config.seed, config.thinking_format, config.max_num_seqs, config.enable_prefix_caching) == (
        4,
        "none",
        3,
        False,
    )
    assert Path(arguments.model) == ROOT / "models" / "s1-nano"
    assert arguments.model_name == "s1-nano"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "exactly one of --prompt TEXT and --input FILE"),
        (["--prompt", "a", "--input", "b"], "exactly one of"),
        (["--prompt", "a", "--resume"], "--resume needs --output"),
        (["--prompt", "a", "--output", "x", "--resume", "--overwrite"], "contradicts --overwrite"),
        (["--prompt", "a", "--overwrite"], "--overwrite needs --output"),
        (["--prompt", "a", "--carry", "n"], "--carry is for the lines of --input"),
        (["--input", "a", "--carry", "n", "--carry", "seed"], "--carry is given 2 times; give it once, with all its"),
        (["--prompt", "a", "--stop", "x", "--stop", "y"], "--stop is given 2 times"),
        (["--prompt", "a", "--max-tokens", "3", "--max_tokens", "4"], "--max-tokens is given 2 times"),
    ],
)
def test_contradictory_flags(words, message):
    with pytest.raises(InputError, match=message):
        parse(words)


def test_plain_text_view(cli):
    code, out, err = cli("--prompt", "hi", "--thinking-extensions", 1)
    assert (code, out) == (0, "abcdeWaitpq<|im_start|>answerABC\n")
    assert re.fullmatch(
        r"note: thinking_format auto is s1: the chat template says s1\n"
        r"[\d.]+ MB of weights per step, [\d.]+ KiB of KV per token, room for 4,096 tokens\n"
        + ("" if native.LOADED and native.LEVEL != "portable" else r"slow: all by .+\n")
        + r"1 request · \d+ prompt \+ 14 generated tokens · 8 thinking · 2 forced · [\d.]+ s · [\d,]+ tok/s · "
        r"thinking ended: 1 natural\n",
        err,
    )


def test_view_of_several_requests_and_samples(cli, tmp_path):
    write_lines(
        tmp_path / "in.jsonl",
        {"prompt": "one"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "text", "text": "wo"}]}]},
        {"prompt_token_ids": [65], "params": {"n": 2}},
    )
    code, out, _ = cli("--input", "in.jsonl", "--thinking-token-budget", 2, "--max-tokens", 12)
    thought = "ab\n<|im_start|>answer\nFinal Answer:"
    assert code == 0
    assert out.startswith(f"[1/3] one\n{thought}")
    assert f"[2/3] two\n{thought}" in out
    assert "[3/3] A\nB" in out
    assert out.count("--- sample 1\n") == 1


def test_messages_that_end_with_the_assistants_are_continued_and_it_is_told_once(cli, tmp_path):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "<|im_start|>thinkab"}]
    write_lines(
        tmp_path / "in.jsonl", {"messages": messages}, {"messages": [*messages[:1], {**messages[1], "content": "A"}]}
    )
    code, _, err = cli("--input", "in.jsonl", "--output", "out.jsonl")
    assert code == 0 and err.count("continue_final_message false opens a new turn\n") == 1
    assert err.count("note:") == 2, "the other says which thinking format auto is"
    inside, behind = (record["outputs"][0] for record in read_lines(tmp_path / "out.jsonl"))
    assert (inside["text"], inside["thinking"]["tokens"]) == ("cde<|im_start|>answerABC", 5)
    assert (behind["text"], behind["answer"]) == ("BC", "BC")
    code, _, err = cli(
        "--input", "in.jsonl", "--output", "out.jsonl", "--overwrite", "--continue-final-message", "False"
    )
    assert code == 0 and "continue_final_message" not in err
    assert all(r["outputs"][0]["reasoning"] == "abcde" for r in read_lines(tmp_path / "out.jsonl"))


def test_terminal_view_marks_forced_tokens(cli, monkeypatch):
    """Under a pseudo-terminal: reasoning dim, answer bold, forced tokens reversed."""
    main_end, side = pty.openpty()
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "")
    with os.fdopen(side, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        assert cli("--prompt", "a\x1b[2Jb", "--thinking-extensions", 1)[0] == 0
    shown = b""
    with suppress(OSError):  # the other end is closed
        while data := os.read(main_end, 4096):
            shown += data
    os.close(main_end)
    text = shown.decode()
    assert "\x1b[2ma" in text  # dim
    assert "\x1b[7mWait\x1b[0m" in text  # reverse
    assert "\x1b[1mA" in text  # bold
    assert "\x1b[2J" not in text
    assert "a\ufffd[2Jb" in text
    assert "14 tokens · 8 thinking · 2 forced · 1 extension · thinking ended: natural · finished: stop" in text


def test_jsonl_in_and_out(cli, tmp_path):
    write_lines(
        tmp_path / "in.jsonl",
        {"prompt": "a", "id": "q1", "answer": 42},
        {"prompt": "b", "params": {"thinking_token_budget": 3, "logprobs": 1}},
        {"messages": [{"role": "user", "content": "c"}], "params": {"n": 2, "thinking_extensions": 1}},
    )
    code, out, err = cli("--input", "in.jsonl", "--output", "out.jsonl")
    assert (code, out) == (0, "")
    assert err.splitlines()[-1].startswith("3 requests · ")
    one, two, three = read_lines(tmp_path / "out.jsonl")
    assert (one["id"], one["index"], one["input"]) == ("q1", 0, {"prompt": "a", "answer": 42})
    assert one["outputs"][0]["reasoning"] == "abcde"
    assert one["outputs"][0]["forced"] == [6]
    assert two["outputs"][0]["text"] == "abc\n<|im_start|>answer\nFinal Answer:XY"
    assert two["outputs"][0]["thinking"] == {"tokens": 3, "forced_tokens": 7, "extensions": 0, "stop_reason": "budget"}
    assert two["usage"]["forced_tokens"] == 7
    logprobs = two["outputs"][0]["logprobs"]
    assert [p["token_id"] for p in logprobs] == two["outputs"][0]["token_ids"]
    assert [i for i, p in enumerate(logprobs) if p["forced"]] == two["outputs"][0]["forced"]
    assert [s["text"] for s in three["outputs"]] == ["abcdeWaitpq<|im_start|>answerABC"] * 2
    assert three["params"] == {"n": 2, "thinking_extensions": 1}
    assert set(one["timing"]) == {"queue_s", "ttft_s", "total_s"}


def test_lines_of_openai_batches_run_as_ours(cli, tmp_path):
    """A chat as its messages, a completion as its very tokens; repeated ids are told, and all run."""
    messages, params = [{"role": "user", "content": "why?"}], {"max_tokens": 12, "thinking_token_budget": 2}
    body = {"model": "gpt-4o", "temperature": None, **params}
    bodies = {"chat/completions": body | {"messages": messages}, "completions": body | {"prompt": "<|im_start|>think"}}
    batch = [{"custom_id": "q", "method": "POST", "url": f"/v1/{url}", "body": bodies[url]} for url in bodies]
    write_lines(tmp_path / "in.jsonl", {"id": "q", "messages": messages, "params": params, "seed": 7}, *batch)
    code, _, err = cli("--input", "in.jsonl", "--output", "out.jsonl")
    assert code == 2 and "in.jsonl:1: seed is 7 outside params" in err
    code, _, err = cli("--input", "in.jsonl", "--output", "out.jsonl", "--carry", "seed")
    assert code == 0, err
    assert "warning: in.jsonl:2: id 'q' is also that of in.jsonl:1; 2 of 3 lines repeat an id" in err
    ours, chat, text = read_lines(tmp_path / "out.jsonl")
    assert [row["id"] for row in (ours, chat, text)] == ["q"] * 3
    assert ours["input"]["seed"] == 7 and ours["params"] == chat["params"] == text["params"] == params
    assert chat["outputs"] == ours["outputs"] and chat["prompt_token_ids"] == ours["prompt_token_ids"]
    assert len(text["prompt_token_ids"]) < len(ours["prompt_token_ids"])
    assert text["outputs"][0]["reasoning"] == ours["outputs"][0]["reasoning"] == "ab"
    assert chat["input"] == {name: batch[0][name] for name in ("method", "url", "body")}
    before = (tmp_path / "out.jsonl").read_bytes()
    assert cli("--input", "in.jsonl", "--output", "out.jsonl", "--carry", "seed", "--resume")[0] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == before


def test_standard_input_and_output(cli, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"prompt": "a"}\n{"prompt": "b"}\n')))
    code, out, _ = cli("--input", "-", "--output", "-")
    assert code == 0
    assert sorted(json.loads(line)["index"] for line in out.splitlines()) == [0, 1]


@pytest.mark.parametrize("words", [("--prompt", "a"), ("--input", "in.jsonl", "--output", "out.jsonl")])
def test_timeline_tells_the_start_and_the_memory(cli, tmp_path, words):
    write_lines(tmp_path / "in.jsonl", {"prompt": "a"})
    code, _, err = cli(*words, "--timeline")
    *_, title, rows = err.partition("start-up")
    assert code == 0 and title
    stages = ("input", "imports", "tokenizer", "configuration", "weights", "packing", "page pool", "first prefill")
    at = [rows.index(stage) for stage in stages]
    assert at == sorted(at)
    assert re.search(r"peak memory [\d,]+ MB: weights take [\d,]+ MB and 1 pages of \S+ MB were written", rows)


def test_resume(cli, tmp_path):
    write_lines(tmp_path / "in.jsonl", *({"prompt": c} for c in "abcd"))
    assert cli("--input", "in.jsonl", "--output", "whole.jsonl")[0] == 0
    whole = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_bytes(whole[2] + whole[0][:-30])
    code, _, err = cli("--input", "in.jsonl", "--output", "out.jsonl", "--resume")
    assert code == 0
    assert "out.jsonl:2: the last line is torn" in err
    assert "3 requests" in err
    got, want = read_lines(tmp_path / "out.jsonl"), read_lines(tmp_path / "whole.jsonl")
    assert [r["index"] for r in got] == [0, 1, 2, 3]
    assert [r["outputs"] for r in got] == [r["outputs"] for r in want]
    code, _, err = cli("--input", "in.jsonl", "--output", "out.jsonl", "--resume")
    assert (code, err) == (0, "nothing to do: out.jsonl holds all 4 requests\n")
    code, _, err = cli("--input", "in.jsonl", "--output", "out.jsonl", "--resume", "--max-tokens", 20)
    assert code == 2
    assert "out.jsonl:1: was made with params" in err
    for flag, value in (
        ("--quantization", "int8"),
        ("--kv-cache-dtype", "fp8"),
        ("--max-model-len", 64),
    ):
        code, _, err = cli("--input", "in.jsonl", "--output", "out.jsonl", "--resume", flag, value)
        assert code == 2
        assert re.search(r"out.jsonl:1: was made with engine \{.*in.jsonl:1 now has \{", err), err
    assert cli("--input", "in.jsonl", "--output", "out.jsonl", "--resume", "--max-waiting", 3)[0] == 0


def test_resumed_draws_equal_those_of_the_whole_run(cli, tmp_path):
    """A request without a seed draws by its place in the input, not by how many ran before it."""
    write_lines(tmp_path / "in.jsonl", *({"prompt": c, "params": {"temperature": 20.0}} for c in "abcde"))
    words = ("--input", "in.jsonl", "--thinking-format", "none", "--max-tokens", 12)
    assert cli(*words, "--output", "whole.jsonl")[0] == 0
    whole = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "out.jsonl").write_bytes(whole[1] + whole[3])
    assert cli(*words, "--output", "out.jsonl", "--resume")[0] == 0
    got, want = read_lines(tmp_path / "out.jsonl"), read_lines(tmp_path / "whole.jsonl")
    assert [r["outputs"] for r in got] == [r["outputs"] for r in want]
    assert len({tuple(r["outputs"][0]["token_ids"]) for r in want}) == 5


BAD_LINES = [
    ({"prompt": "x", "params": {"temprature": 1}}, "params: unknown parameter 'temprature'"),
    ({"prompt": "x", "params": {"temperature": -1}}, "params: temperature is -1"),
    ({"prompt": "x", "params": {"temperature": float("nan")}}, "NaN"),
    ({"prompt": "x", "params": {"thinking_token_budget": -1}}, "params: thinking_token_budget is -1"),
    ({"prompt": "x", "params": {"min_thinking_tokens": 9, "thinking_token_budget": 3}}, "min_thinking_tokens 9"),
    ({"prompt": "x", "params": {"thinking_extension_str": "<|im_start|>"}}, "thinking_extension_str"),
    ({"prompt": "x", "params": {"thinking_end_str": "no end"}}, "thinking_end_str 'no end'"),
    ({"prompt": "x", "params": {"thinking_end_str": "\ud800<|im_start|>answer"}}, "lone surrogate"),
    ({"prompt": "x", "params": {"stop": ["\ud800"]}}, "params: stop holds the lone surrogate U+D800"),
    ({"prompt": "x", "params": {"logit_bias": {"\u00b2": 1}}}, "params: logit_bias has key '\u00b2'"),
    ({"prompt": "x", "params": {"logit_bias": {"9" * 5000: 1}}}, "params: logit_bias has key '999"),
    ({"prompt": "x", "params": {"logit_bias": {"1": 1, "01": 2}}}, "params: logit_bias has token 1 twice"),
    ({"prompt": "x", "params": {"n": 2_000_000_000}}, "n is 2000000000 and the engine's max_samples 1024"),
    ({"prompt": "x", "params": {"thinking_format": 5}}, "params: thinking_format is 5"),
    (
        {"prompt": "x", "params": {"thinking_format": ["opener", "end", "budget_end", "triggers"]}},
        "params: thinking_format is [",
    ),
    ({"prompt": "x", "params": {"thinking_format": "[" * 100_000}}, "thinking_format is '[[["),
    ({"prompt": "x", "params": {"allowed_token_ids": [256], "banned_token_ids": [256]}}, "allowed_token_ids"),
    ({"prompt": ""}, "prompt is empty"),
    ({"prompt": "x", "params": {"thinking_format": "none", "thinking_extensions": 1}}, "thinking_extensions is set"),
    (
        {
            "prompt": "x",
            "params": {"thinking_format": {"opener": "<o>", "end": "e", "budget_end": "e", "triggers": ["t"]}},
        },
        "end 'e' is none of the triggers",
    ),
    ({"prompt": "x", "params": {"max_tokens": 3}}, "max_tokens is 3 and closing the thinking takes 8"),
    ({"prompt": "x" * 300}, "the prompt has at least 316 tokens and the context holds 256"),
    ({"prompt_token_ids": [5, 10_000]}, "prompt_token_ids[1] is 10000"),
    ({"prompt_token_ids": []}, "the prompt has no tokens"),
    ({"prompt": "x", "params": {"stop_token_ids": [10_000]}}, "stop_token_ids[0] is 10000"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[m[:30] for _, m in BAD_LINES])
def test_bad_lines_are_found_before_the_model_loads(cli, story, tmp_path, line, message):
    """The weights are missing here, and nobody notices."""
    model = tmp_path / "model"
    shutil.copytree(story, model)
    (model / "model.safetensors").unlink()
    write_lines(tmp_path / "in.jsonl", {"prompt": "fine"}, line)
    code, out, err = cli("--input", "in.jsonl", "--output", "out.jsonl", model=model)
    assert (code, out) == (2, "")
    assert err.startswith("error: in.jsonl:2: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


def remove(name):
    return lambda model: (model / name).unlink()


def truncate(model):
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def reshape(model):
    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, model / "model.safetensors")


def pickled(model):
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def drop_template(model):
    path = model / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config.pop("chat_template")
    path.write_text(json.dumps(config))


def empty_template(model):
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": ""}))


def piped(model):
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")


def resize(**sizes):
    def spoil(model):
        config = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps({**config, **sizes}))

    return spoil


BAD_MODELS = [
    (piped, "config.json is a pipe; give a regular file"),
    (resize(num_hidden_layers=2**31), "num_hidden_layers is 2147483648; give a whole number from 1 to 1,024"),
    (resize(intermediate_size=2**18), "config.json asks for [262144, "),
    (resize(rope_theta=10**400), "rope_theta is <a whole number of about 401 digits>"),
    (resize(hidden_act="\x1b]0;\n" * 10**6), r"hidden_act is '\x1b]0;\n\x1b]0;\n"),
    (empty_template, "--prompt: the chat template renders these messages to nothing"),
    (remove("model.safetensors"), "holds no safetensors file"),
    (truncate, "model.safetensors"),
    (reshape, "model.norm.weight"),
    (pickled, "pytorch_model.bin"),
    (remove("tokenizer.json"), "tokenizer.json is missing"),
    (remove("config.json"), "config.json"),
    (drop_template, "--prompt: the checkpoint has no chat template"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_MODELS, ids=[m for _, m in BAD_MODELS])
def test_bad_checkpoints(cli, story, tmp_path, spoil, message):
    model = tmp_path / "model"
    shutil.copytree(story, model)
    spoil(model)
    code, out, err = cli("--prompt", "x", "--output", "out.jsonl", model=model)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "nowhere/out.jsonl"], "nowhere/out.jsonl: cannot be written"),
        (["--output", "."], ".: is a folder"),
        (["--temperature", "nan"], "temperature is nan"),
        (["--top-p", "inf"], "top_p is inf"),
        (["--max-num-batched-tokens", "0"], "max_num_batched_tokens is 0"),
        (["--thinking-format", "s2"], "thinking_format is"),
        (["--thinking-format", "[" * 100_000], "thinking_format is '[[["),
        (["--output", "x" * 300], "File name too long"),
        (["--temprature", "1"], "unrecognized options: --temprature, 1 (did you mean --temperature?)"),
        (["--temp", "1"], "unrecognized options: --temp, 1"),
        (["--temperature", "hot"], "--temperature: could not convert string to float: 'hot'"),
        (["--max-tokens", "1.5"], "--max-tokens"),
        (["--temperature"], "--temperature needs a value"),
        (["--thinking-budget-action", "cut"], "--thinking-budget-action is 'cut'; give one of force_end, truncate"),
        (["--logit-bias", "a", "1"], "--logit-bias"),
        (["stray"], "unrecognized options: stray"),
        (["--max-model-len", "100000"], "max_model_len is 100000"),
    ],
)
def test_bad_flags(cli, words, message):
    code, out, err = cli("--prompt", "x", *words)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_model_that_is_not_there(cli, tmp_path):
    code, _, err = cli("--prompt", "x", model=tmp_path / "nothing" / "here" / "at all")
    assert code == 2
    assert "is no directory" in err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there(story, capfd):
    assert main(["--model", str(story), "--prompt", "x", "--device", "cuda"]) == 2
    assert "has 0 CUDA devices" in capfd.readouterr().err


def test_a_prompt_that_is_empty(cli):
    code, out, err = cli("--prompt", "")
    assert (code, out, err) == (2, "", "error: --prompt: the prompt is empty; give a question\n")


def test_the_output_may_not_be_the_input(cli, tmp_path):
    written = write_lines(tmp_path / "in.jsonl", {"prompt": "precious"}).read_bytes()
    (tmp_path / "link.jsonl").symlink_to("in.jsonl")
    for words in ([], ["--resume"], ["--overwrite"]):
        code, out, err = cli("--input", "in.jsonl", "--output", "link.jsonl", *words)
        assert (code, out) == (2, "")
        assert err == "error: --output link.jsonl is the input file; choose another\n"
    assert (tmp_path / "in.jsonl").read_bytes() == written


def test_a_pool_that_rounds_down_to_pages_is_known_before_the_model_loads(cli, story, tmp_path):
    """41 tokens are two pages of 16: a request that 41 would hold is refused although the weights are missing."""
    model = tmp_path / "model"
    shutil.copytree(story, model)
    (model / "model.safetensors").unlink()
    write_lines(tmp_path / "in.jsonl", {"prompt_token_ids": [65] * 35})
    code, _, err = cli("--input", "in.jsonl", "--output", "out.jsonl", "--page-size", 16, model=model, pool=41)
    assert code == 2
    assert "in.jsonl:1: the prompt has 35 tokens and the context holds 32" in err


FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")


def full_disk(code: int, err: str) -> None:
    """The run failed, and its last line alone says why."""
    *start, last = err.splitlines()
    assert code == 1 and last.startswith("error: ") and "No space left on device" in last
    assert not any("error" in line.lower() or "Traceback" in line for line in start)


@FULL
@pytest.mark.parametrize("output", ["/dev/full", "-"])
def test_a_full_disk_ends_with_one_line(cli, monkeypatch, output):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        code, _, err = cli("--prompt", "x", "--output", output)
    full_disk(code, err)


@FULL
def test_a_process_whose_standard_output_is_full_ends_with_one_line(story):
    """Nothing more is said when the interpreter closes what it could not write."""
    command = [sys.executable, "-m", "engine.generate", "--model", str(story), *SMALL, "--prompt", "x"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True)
    full_disk(done.returncode, done.stderr)


def test_text_that_the_terminal_cannot_encode(cli, endless, monkeypatch):
    lines = '{"prompt": "caf\u00e9 \u65e5"}\n{"prompt": "b"}\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", shown)
    code, _, err = cli("--input", "-", "--thinking-token-budget", 3, model=endless)
    assert code == 0, err
    shown.seek(0)
    assert "caf\\xe9 \\u65e5" in shown.read()


def test_what_has_finished_is_written_when_the_run_is_stopped(endless, tmp_path):
    """Requests may finish faster than their lines are written; those that were ended by the stop are not kept."""
    path = write_lines(tmp_path / "in.jsonl", *({"prompt": str(i)} for i in range(3)))
    lines = read_input(str(path), SamplingParams())
    results = ResultsFile(str(tmp_path / "out.jsonl"))
    results.prepare(lines, Origin("m", {}), resume=False, overwrite=False)
    results.open()
    finished = queue.SimpleQueue()
    with Engine(endless, device="cpu", dtype="float32") as engine:
        for line in lines:
            handle = engine.submit(line.prompt, SamplingParams(max_tokens=1900 if line.index == 1 else 20))
            if line.index == 1:
                handle.abort()
            handle.add_done_callback(partial(_finish, finished, line))
            handle.result(timeout=60)
    _write_finished(finished, results, Origin("m", {}))
    results.close(order=False)
    assert [r["index"] for r in read_lines(tmp_path / "out.jsonl")] == [0, 2]


def two_lines(cli, tmp_path: Path) -> list[dict]:
    """Two requests in in.jsonl, one as OpenAI writes it; what one process says to them."""
    body = {"messages": [{"role": "user", "content": "b"}], "thinking_token_budget": 2}
    write_lines(tmp_path / "in.jsonl", {"prompt": "a"}, {"custom_id": "b", "body": body})
    assert cli("--input", "in.jsonl", "--output", "one.jsonl")[0] == 0
    return [r["outputs"] for r in read_lines(tmp_path / "one.jsonl")]


def test_two_ranks_answer_like_one(cli, tmp_path):
    one = two_lines(cli, tmp_path)
    code, _, err = cli("--input", "in.jsonl", "--output", "two.jsonl", "--tensor-parallel-size", 2)
    assert code == 0 and err.count("2 requests") == 1, err
    assert [r["outputs"] for r in read_lines(tmp_path / "two.jsonl")] == one


@pytest.mark.slow
def test_two_ranks_of_torchrun_answer_like_one(cli, story, tmp_path):
    one = two_lines(cli, tmp_path)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    words = ["--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "two.jsonl")]
    done = subprocess.run(
        [*torchrun, "engine.generate", "--model", str(story), *SMALL, *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0 and done.stderr.count("2 requests") == 1, done.stderr
    assert [r["outputs"] for r in read_lines(tmp_path / "two.jsonl")] == one


def test_the_input_is_no_output(cli, tmp_path):
    """Under another name either; its lines stay."""
    lines = write_lines(tmp_path / "in.jsonl", {"prompt": "why"})
    before = lines.read_text()
    (tmp_path / "other.jsonl").hardlink_to(lines)
    code, _, err = cli("--input", "in.jsonl", "--output", "other.jsonl", "--overwrite")
    assert code == 2 and "--output other.jsonl is the input file; choose another" in err
    assert lines.read_text() == before
