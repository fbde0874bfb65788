"""Order, text format, layout and the plan's arithmetic; refusal of bad input."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import InputError, SamplingParams
from engine.prepare import Preparer
from engine.text.tokenizer import Tokenizer
from engine.text.training_text import s1_messages, training_tokens
from tests.checkpoints import QWEN_TOKENIZER, write_tokenizer
from tests.train.support import ROOT, VOCAB, dataset, write_config, write_model, write_tokens
from train.architecture import Architecture
from train.config import Data, Optim, load_config
from train.data import read_dataset, read_sets, step_samples, steps_per_epoch
from train.errors import TrainingError
from train.layout import build_batch, lay_out
from train.optim import lr_at
from train.plan import adapter_parameters, layer_values, plan_memory, published_lengths, read_lengths, state_bytes
from train.plan import main as plan_main
from train.sft import main as sft_main

RECIPES = ROOT / "train" / "recipes"
needs_qwen = pytest.mark.skipif(not QWEN_TOKENIZER.is_dir(), reason="S1_DATA has no qwen2.5_tokenizer")


def test_order_is_a_pure_function() -> None:
    """T10: 1,000 samples by 16 are 63 steps; each epoch holds all, its last step wraps; epochs differ."""
    config = Data(train=("x",), batch_size=16)
    assert steps_per_epoch(1000, config) == 63 and 5 * 63 == 315
    steps = [step_samples(42, step, 1000, config) for step in range(126)]
    for epoch in (steps[:63], steps[63:]):
        flat = np.concatenate(epoch)
        assert len(flat) == 1008 and set(flat) == set(range(1000))
        np.testing.assert_array_equal(flat[1000:], flat[:8])  # filled from the epoch's own beginning
    assert not np.array_equal(steps[0], steps[63])
    np.testing.assert_array_equal(steps[70], step_samples(42, 70, 1000, config))
    assert not np.array_equal(steps[0], step_samples(43, 0, 1000, config))
    assert steps[0][:4].tolist() == [743, 740, 997, 810], "the order of a published seed must never change"
    dropped = Data(train=("x",), batch_size=16, last_batch="drop")
    assert steps_per_epoch(1000, dropped) == 62


def test_schedule_is_s1s() -> None:
    """16 steps of warm-up from 0, the peak at step 17, then a cosine that would reach 0 after step 315."""
    optim = load_config(RECIPES / "s1_32b_16xh100.yaml").optim
    rates = [lr_at(step, 315, optim) for step in range(316)]
    assert rates[0] == 0 and rates[16] == max(rates) == 1e-5 and rates[15] == pytest.approx(1e-5 * 15 / 16)
    assert rates[315] == pytest.approx(0, abs=1e-20) and rates[16 + 299 // 2] == pytest.approx(5e-6, rel=0.01)


def test_no_step_of_the_warm_up_is_lost() -> None:
    """Unless one asks for it, the first step has its part of the ramp, and the peak comes once."""
    optim = Optim(lr=1.0, warmup=0.1)
    rates = [lr_at(step, 40, optim) for step in range(40)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0]) and rates.count(max(rates)) == 1
    assert lr_at(0, 40, Optim(lr=1.0, warmup=0.1, warmup_from=0.5)) == 0.5
    assert lr_at(0, 40, Optim(lr=1.0, warmup=0.0)) == 1.0


def test_held_out_samples_are_chosen_by_their_tokens(tmp_path: Path) -> None:
    whole = dataset([5, 6, 7, 8, 9, 10, 11, 12])
    rest, held = whole.split(0.4)
    assert sorted([*rest.ids, *held.ids]) == sorted(whole.ids) and held.ids
    assert int(rest.offsets[-1] + held.offsets[-1]) == int(whole.offsets[-1])
    for part in (rest, held):
        for at, name in enumerate(part.ids):
            there = whole.ids.index(name)
            mine, theirs = (slice(d.offsets[i], d.offsets[i + 1]) for d, i in ((part, at), (whole, there)))
            assert (part.tokens[mine] == whole.tokens[theirs]).all() and part.targets[at] == whole.targets[there]
    renamed = replace(whole, ids=("",) * len(whole))
    assert (renamed.split(0.4)[1].tokens == held.tokens).all(), "whatever they are called"
    fewer = whole.subset(np.arange(4))
    assert set(fewer.split(0.4)[1].ids) == set(held.ids) & set(fewer.ids), "whatever the other samples are"
    assert len(whole.split(1e-9)[1].ids) == 1, "a small file has one at least"
    with pytest.raises(TrainingError, match=r"heldout_share is 0\.5 and all of 1 samples would be held out"):
        whole.subset(np.arange(1)).split(0.5)
    twice = whole.subset(np.arange(16) % 8)
    rest, held = twice.split(0.4)
    assert not held.of_which_in(rest) and len(held) % 2 == 0, "equal samples are on the same side"


@pytest.mark.parametrize("name", [None, "", "one"])
def test_samples_without_names_of_their_own_are_split_wherever_they_lie(tmp_path: Path, name: str | None) -> None:
    write_tokens(tmp_path / "a.jsonl", [9] * 40)
    records = [json.loads(line) | {"id": name} for line in (tmp_path / "a.jsonl").open()]
    held = []
    for file in (tmp_path / "b.jsonl", tmp_path / "c.jsonl"):
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        rest, out = read_sets(Data(train=(str(file),), heldout_share=0.25), None, VOCAB)
        assert out is not None and 4 <= len(out) <= 16 and len(rest) + len(out) == 40
        held.append(out.tokens.tolist())
    assert held[0] == held[1]


def test_a_large_file_is_split_in_time() -> None:
    data = dataset([2] * 30_000)
    began = time.perf_counter()
    data.split(0.1)
    assert time.perf_counter() - began < 5, "30,000 x 30,000 comparisons take half a minute"


def test_a_file_given_twice_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """By what it holds, under any name; single samples that are in both sets are counted."""
    model, data = write_model(tmp_path / "m"), write_tokens(tmp_path / "a.jsonl", [10, 12, 9])
    (tmp_path / "b.jsonl").write_bytes(data.read_bytes())
    for tree, message in (
        ({"heldout": [f"{tmp_path}/b.jsonl"]}, f"data.train {tmp_path}/a.jsonl and data.heldout {tmp_path}/b.jsonl"),
        ({"train": [f"{tmp_path}/*.jsonl"]}, f"data.train {tmp_path}/a.jsonl and data.train {tmp_path}/b.jsonl"),
        ({"train": [f"{tmp_path}/*.jsonl"], "heldout_share": 0.1}, f"{tmp_path}/b.jsonl are the same file; take one"),
    ):
        config = write_config(tmp_path / "run.yaml", model, data, data=tree)
        for program in (sft_main, plan_main):
            assert program([str(config)]) == 2 and message in capfd.readouterr().err
        assert not (tmp_path / "run").exists()
    lines = data.read_text().splitlines(keepends=True)
    other = json.dumps({"id": "other", "tokens": [1, 2, 3], "trained": [0, 1, 1]})
    (tmp_path / "b.jsonl").write_text(lines[1].replace("s1", "x") + other + "\n")
    config = write_config(tmp_path / "run.yaml", model, data, data={"heldout": [f"{tmp_path}/b.jsonl"]})
    assert plan_main([str(config)]) == 0 and "2 held out, 1 of which are trained on too" in capfd.readouterr().out
    assert sft_main([str(config)]) == 0 and "1 of 2 held-out samples are trained on too" in capfd.readouterr().err
    assert ", 1 of which are trained on too, b.jsonl" in (tmp_path / "run" / "export" / "README.md").read_text()


def test_the_plan_is_of_what_is_trained_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, data = write_model(tmp_path / "m"), write_tokens(tmp_path / "a.jsonl", [10] * 40)
    config = write_config(tmp_path / "run.yaml", model, data, data={"heldout_share": 0.5})
    rest, held = read_sets(load_config(config).data, None, VOCAB)
    assert held is not None and plan_main([str(config)]) == 0
    said = capfd.readouterr().out
    assert f"samples     {len(rest)} (" in said and f", {len(held)} held out)" in said


@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=24),
    groups=st.integers(1, 4),
    limit=st.integers(50, 2000),
)
@settings(max_examples=60, deadline=None)
def test_layout_holds_every_sample_once(lengths: list[int], groups: int, limit: int) -> None:
    layout = lay_out(lengths, groups, limit)
    assert sorted(i for group in layout.micro for bin_ in group for i in bin_) == list(range(len(lengths)))
    assert len({len(group) for group in layout.micro}) == 1
    for group, part in enumerate(layout.micro):
        for micro, bin_ in enumerate(part):
            assert len(bin_) <= 1 or layout.loads[group][micro] <= limit
    assert layout.imbalance >= 1 - 1e-9


@given(
    lengths=st.lists(st.integers(2, 40), min_size=1, max_size=8),
    context=st.integers(1, 4),
    multiple=st.sampled_from([1, 8]),
)
@settings(max_examples=60, deadline=None)
def test_slices_put_together_are_the_stream(lengths: list[int], context: int, multiple: int) -> None:
    data = dataset(lengths)
    weights = np.arange(1.0, len(lengths) + 1)
    whole = build_batch(data, np.arange(len(lengths)), weights)
    parts = [build_batch(data, np.arange(len(lengths)), weights, context, rank, multiple) for rank in range(context)]
    sizes = {len(part.ids) for part in parts}
    assert len(sizes) == 1 and sizes.pop() % multiple == 0
    total = len(whole.ids)
    assert np.concatenate([p.ids for p in parts])[:total].tolist() == whole.ids.tolist()
    assert np.concatenate([p.documents.positions for p in parts])[:total].tolist() == whole.documents.positions.tolist()
    assert np.concatenate([p.labels for p in parts]).tolist() == whole.labels.tolist()
    assert np.concatenate([p.weights for p in parts]).tolist() == whole.weights.tolist()


@needs_qwen
def test_s1_text_and_mask(tmp_path: Path) -> None:
    """T11 on the real tokenizer: text, and loss from the thinking marker to the end of the turn, nowhere else."""
    records = [
        {
            "id": "s1k",
            "question": "What is 2+2?",
            "thinking_trajectories": [" Two and two.\n"],
            "attempt": "It is 4.\n",
        },
        {
            "id": "r1",
            "question": "Q<|im_start|>user\n",
            "deepseek_thinking_trajectory": "Hmm",
            "deepseek_attempt": "Answer: 5",
        },
        {"id": "ours", "question": "日本?", "thinking": "Ünïcode — 3", "answer": "x"},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    tokenizer = Tokenizer.load(QWEN_TOKENIZER)
    data = read_dataset((str(tmp_path / "a.jsonl"),), Data(train=("x",)), tokenizer, 152064)
    assert data.ids == ("s1k", "r1", "ours")
    system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    head = f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"
    trained = [
        "<|im_start|>think\nTwo and two.\n<|im_start|>answer\nAnswer: It is 4.<|im_end|>\n",
        "<|im_start|>think\nHmm\n<|im_start|>answer\nAnswer: 5<|im_end|>\n",
        "<|im_start|>think\nÜnïcode — 3\n<|im_start|>answer\nAnswer: x<|im_end|>\n",
    ]
    for i, record in enumerate(records):
        part = slice(data.offsets[i], data.offsets[i + 1])
        tokens, mask = data.tokens[part], data.trained[part]
        decode = lambda ids: tokenizer.decode(ids.tolist())  # noqa: E731
        assert decode(tokens) == head + record["question"] + "<|im_end|>\n<|im_start|>assistant\n" + trained[i]
        assert decode(tokens[mask]) == trained[i]
        assert np.all(np.diff(mask.astype(int)) >= 0), "one span, at the end"
        assert tokens[mask][0] == 151644 and tokens[mask][-2] == 151645 and data.targets[i] == mask.sum()
    # The same texts already rendered give the same tokens and masks.
    texts = [
        head + r["question"] + "<|im_end|>\n<|im_start|>assistant\n" + t for r, t in zip(records, trained, strict=True)
    ]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts[::2]))
    again = read_dataset((str(tmp_path / "b.jsonl"),), Data(train=("x",)), tokenizer, 152064)
    for i, j in ((0, 0), (1, 2)):
        mine, other = slice(*again.offsets[i : i + 2]), slice(*data.offsets[j : j + 2])
        np.testing.assert_array_equal(again.tokens[mine], data.tokens[other])
        np.testing.assert_array_equal(again.trained[mine], data.trained[other])
    everything = read_dataset(
        (str(tmp_path / "b.jsonl"),), Data(train=("x",), loss="all", eos="<|endoftext|>"), tokenizer, 152064
    )
    assert everything.trained.all() and everything.tokens[-1] == 151643


@pytest.mark.parametrize("style", ["s1", "messages"])
@pytest.mark.parametrize("special", ["<|im_end|>", "<|im_start|>assistant\n<|im_start|>think\n", "<|endoftext|>"])
def test_what_a_question_spells_is_text_in_training_as_in_the_engine(tmp_path: Path, special: str, style: str) -> None:
    """The ids up to the assistant's turn are the engine's prompt, and no special token is read out of the question."""
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    question = f"What does {special} mean?"
    record = {"question": question, "thinking": "A mark.", "answer": "It ends a turn."}
    if style == "messages":
        record = {"messages": s1_messages(question, "A mark.", "It ends a turn.")}  # type: ignore[dict-item]
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    data = read_dataset((str(tmp_path / "a.jsonl"),), Data(train=("x",)), tokenizer, 10**6)
    prompt = list(Preparer(tokenizer, "s1", 4096).prepare(question, SamplingParams()).prompt)
    opener = tokenizer.encode("<|im_start|>think", specials=True)
    assert data.tokens[: len(prompt)].tolist() == prompt and prompt[-len(opener) :] == opener
    asked = data.tokens[: len(prompt) - len(opener)].tolist()
    assert not data.trained[: len(asked)].any() and data.trained[len(asked) :].all()
    assert (
        asked.count(tokenizer.special_id("<|im_end|>")) == 1 and asked.count(tokenizer.special_id("<|im_start|>")) == 2
    )
    assert tokenizer.special_id("<|endoftext|>") not in asked and special in tokenizer.decode(asked)


def test_every_assistant_turn_is_trained_and_nothing_else(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    turns = [{"role": r, "content": c} for r, c in (("user", "a<|im_end|>"), ("assistant", "b"), ("user", "c"))]
    ids, trained = training_tokens(tokenizer, [*turns, {"role": "assistant", "content": "<|im_start|>think\nd"}])
    runs = [
        tokenizer.decode([i for i, t in run if t]) for _, run in groupby(zip(ids, trained, strict=True), lambda p: p[1])
    ]
    assert runs[1::2] == ["b<|im_end|>\n", "<|im_start|>think\nd<|im_end|>\n"] and runs[::2] == ["", ""]


@needs_qwen
def test_a_token_across_the_border_is_trained(tmp_path: Path) -> None:
    """The template's line break and the turn's own first one are one token; searching for the header would miss it."""
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "\nYes"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    tokenizer = Tokenizer.load(QWEN_TOKENIZER)
    data = read_dataset((str(tmp_path / "a.jsonl"),), Data(train=("x",)), tokenizer, 152064)
    trained = tokenizer.decode(data.tokens[data.trained].tolist())
    other = tokenizer.decode(data.tokens[~data.trained].tolist())
    assert trained == "\n\nYes<|im_end|>\n" and other.endswith("<|im_start|>assistant")


def test_arithmetic_of_the_s1_run(capsys: pytest.CaptureFixture[str]) -> None:
    """T12: parameters and steps exactly, memory and FLOPs within 1 % of figures worked out by hand."""
    arch = Architecture.load(RECIPES / "qwen2.5_32b.json")
    assert arch.layer_parameters == 487_605_248
    assert arch.num_parameters == 32_763_876_352 and arch.matmul_parameters == 31_984_189_440
    assert 6 * arch.matmul_parameters == pytest.approx(1.92e11, rel=0.01)
    assert arch.attention_flops([32768]) / 32768 == pytest.approx(6.4e10, rel=0.01)
    assert arch.attention_flops([5000]) / 5000 == pytest.approx(1.97e6 * 5000, rel=0.01)

    def memory(tokens: int, ranks: int = 16, **overrides: str):
        config = load_config(
            RECIPES / "s1_32b_16xh100.yaml", [f"{k.replace('__', '.')}={v}" for k, v in overrides.items()]
        )
        return plan_memory(config, arch, ranks, tokens)

    full = {"compute__checkpointing": "full"}
    for ranks, gb in ((8, 65.5), (16, 32.8), (32, 16.4)):
        assert memory(1, ranks).state == pytest.approx(gb, rel=0.01)
        assert memory(1, ranks, compute__master_dtype="bfloat16").state == pytest.approx(gb / 2, rel=0.01)
        small = memory(1, ranks, compute__master_dtype="bfloat16", optim__kind="adamw8bit").state
        assert small == pytest.approx(gb * 6 / 16, rel=0.01)
    for tokens, boundaries, layer in ((5_300, 3.5, 1.8), (10_600, 6.9, 3.5), (32_768, 21.5, 10.9)):
        plan = memory(tokens, **full)
        assert (round(plan.boundaries, 1), round(plan.layer, 1)) == (boundaries, layer)
    assert 32_768 * layer_values(arch) * 2 / 1e9 == pytest.approx(10.9, rel=0.01)
    lora = load_config(RECIPES / "s1_32b_lora_1xh200.yaml")
    assert lora.lora is not None and adapter_parameters(lora.lora, arch) == pytest.approx(134e6, rel=0.01)
    plan = plan_memory(lora, arch, 1, 32_768)
    assert plan.state == pytest.approx(65.5 + 2.1, rel=0.01)
    assert plan.state + plan.boundaries + plan.layer + plan.overhead == pytest.approx(102, rel=0.01)
    assert state_bytes(lora) == 16

    lengths = published_lengths()
    assert lengths.mean() == pytest.approx(4700, rel=1e-4) and (lengths < 4096).mean() == pytest.approx(0.26, abs=0.005)
    assert arch.training_flops(lengths.tolist() * 5) == pytest.approx(4.74e18, rel=0.01)
    arguments = [str(RECIPES / "s1_32b_16xh100.yaml"), "--shape", str(RECIPES / "qwen2.5_32b.json"), "--lengths", "s1k"]
    assert plan_main(arguments) == 0
    printed = capsys.readouterr().out
    for figure in (
        "63 per epoch, 315 in all",
        "32,763,876,352 parameters (32.8B)",
        "not measured",
        "16 x H100",
        "1.92e+11",
        "all logits at once would be 4.9",
    ):
        assert figure in printed
    assert plan_main([*arguments[:3], "--lengths", "/nowhere"]) == 2 and "/nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", sorted(p.name for p in RECIPES.glob("*.yaml")))
def test_recipes_are_valid(recipe: str) -> None:
    assert load_config(RECIPES / recipe).run.startswith("runs/")


def test_too_long_sample_stops_or_is_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """T15: named with its length; with `drop` the run goes on and says how many it left out."""
    model, data = write_model(tmp_path / "m"), write_tokens(tmp_path / "d.jsonl", [10, 60, 12, 9, 70, 11])
    config = write_config(tmp_path / "run.yaml", model, data, data={"max_tokens": 50, "batch_size": 2})
    assert sft_main([str(config)]) == 2
    error = capfd.readouterr().err
    assert "sample s1 has 60 tokens" in error and "max_tokens" in error and not (tmp_path / "run").exists()
    assert sft_main([str(config), "data.on_too_long=drop", "checkpoint.resume=false"]) == 0
    assert "2 dropped as longer than 50" in capfd.readouterr().err


def chat(**fields: object) -> dict[str, object]:
    return {"id": "q7", "question": "Why?", "thinking": "Because.", "answer": "42", **fields}


BAD_RECORDS = {
    "empty trace": (chat(thinking=" \n"), "q7|1: field 'thinking' is empty"),
    "empty answer": (chat(answer=""), "field 'answer' is empty"),
    "no marker": ({"text": "just text"}, "no '<|im_start|>assistant\\n' in the text"),
    "unknown fields": ({"prompt": "x"}, "fields ['prompt'] are none of"),
    "no assistant": ({"messages": [{"role": "user", "content": "x"}]}, "no assistant message"),
    "tokens without mask": ({"tokens": [1, 2]}, "needs `trained`"),
    "mask of another length": ({"tokens": [1, 2], "trained": [1]}, "one 0 or 1 for each of the 2 tokens"),
    "token outside": ({"tokens": [1, 9999], "trained": [1, 1]}, "tokens from 1 to 9999, the model's"),
    "tokens as text": ({"tokens": ["a"], "trained": [1]}, "`tokens` must be a list of integers"),
    "tokens as floats": ({"tokens": [1.0, 2.5], "trained": [1, 1]}, "`tokens` must be a list of integers"),
    "tokens beyond floats": ({"tokens": [10**400, 2.5], "trained": [1, 1]}, "`tokens` must be a list of integers"),
    "tokens beyond 64 bits": ({"tokens": [10**20], "trained": [1]}, "`tokens` must be a list of integers"),
    "question without text": (chat(question=None), "field 'question' must be text, not NoneType"),
    "trace of numbers": (chat(thinking=[1]), "field 'thinking' must be text, not list"),
    "message without content": ({"messages": [{"role": "user"}]}, "messages[0].content is NoneType; give a string"),
    "nothing trained": ({"id": "z", "tokens": [1, 2], "trained": [1, 0]}, "sample z has no token to train on"),
}


@pytest.mark.parametrize("name", BAD_RECORDS)
def test_bad_records_are_named(tmp_path: Path, name: str) -> None:
    record, message = BAD_RECORDS[name]
    model = write_model(tmp_path / "m", vocab=None)
    good = json.dumps({"tokens": [1, 2, 3], "trained": [0, 1, 1]})
    (tmp_path / "d.jsonl").write_text(json.dumps(record) + "\n" + good + "\n")
    with pytest.raises(TrainingError) as error:
        arch = Architecture.load(model)
        read_dataset((str(tmp_path / "d.jsonl"),), Data(train=("x",)), Tokenizer.load(model), arch.vocab_size)
    assert any(part in str(error.value) for part in message.split("|1: ")) and "\n" not in str(error.value)


def test_a_byte_order_mark_is_no_part_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\ufeff{"id": "a", "tokens": [1, 2]}\n{"id": "b", "tokens": [3, 4]}\n')
    data = read_dataset((str(tmp_path / "a.jsonl"),), Data(train=("x",), loss="all"), None, VOCAB)
    assert data.ids == ("a", "b")
    (tmp_path / "lengths").write_text("\ufeff7\n9\n")
    assert read_lengths(tmp_path / "lengths").tolist() == [7, 9]


def test_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text('{"tokens": [1, 2]}\n{"tokens": [1')
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe9"}\n')
    (tmp_path / "f.parquet").write_bytes(b"PAR1")
    os.mkfifo(tmp_path / "pipe")
    for file, message in (
        (tmp_path / "d.jsonl", "d.jsonl:2: not JSON"),
        (tmp_path / "e.jsonl", "e.jsonl does not exist"),
        (tmp_path / "latin.jsonl", "latin.jsonl:1: not JSON"),
        (tmp_path / "f.parquet", "f.parquet: not a readable Parquet"),
        (tmp_path / "pipe", "pipe is a pipe; give a regular file"),
        (tmp_path, "is a folder; name its files"),
    ):
        with pytest.raises(InputError, match=message):
            read_dataset((str(file),), Data(train=("x",), loss="all"), None, VOCAB)


@pytest.mark.parametrize("text", ["1\nx", "1.5", "1" + "0" * 400, "1" + "0" * 5000, "0", "", "\udcff"])
def test_lengths_that_are_none_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "lengths").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"lengths: must hold") as caught:
        read_lengths(tmp_path / "lengths")
    assert str(caught.value).isprintable()


def shorten(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


BAD_MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights torn": (lambda m: shorten(m / "model.safetensors", -1000), "copy it again"),
    "weights empty": (lambda m: shorten(m / "model.safetensors", 0), "copy it again"),
    "weights gone": (lambda m: (m / "model.safetensors").unlink(), "holds no safetensors file"),
    "config gone": (lambda m: (m / "config.json").unlink(), "config.json is missing"),
    "config a list": (lambda m: (m / "config.json").write_text("[]"), "holds list, not a JSON object"),
    "tokenizer torn": (lambda m: (m / "tokenizer.json").write_text("{}"), "the tokenizer's decoder is None"),
    "template torn": (
        lambda m: (m / "chat_template.jinja").write_text("{% if"),
        "template cannot be compiled",
    ),
    "template refuses": (
        lambda m: (m / "chat_template.jinja").write_text("{{ raise_exception('no tools') }}"),
        "d.jsonl:1: the chat template cannot render these messages: no tools",
    ),
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_bad_models_are_named(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A model folder that is broken somewhere: one line that names the file, exit code 2, nothing written."""
    spoil, message = BAD_MODELS[name]
    model = write_model(tmp_path / "m", vocab=None)
    (tmp_path / "d.jsonl").write_text(json.dumps(chat()) + "\n")
    config = write_config(tmp_path / "run.yaml", model, tmp_path / "d.jsonl")
    spoil(model)
    assert sft_main([str(config)]) == 2
    error = capfd.readouterr().err
    assert message in error and str(tmp_path) in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_yaml_numbers_and_resolved_copy(tmp_path: Path) -> None:
    """1e-5 without a dot is a string in YAML 1.1; the resolved copy reads back to the same configuration."""
    model, data = write_model(tmp_path / "m"), write_tokens(tmp_path / "d.jsonl", [10, 12])
    config = load_config(write_config(tmp_path / "run.yaml", model, data), ["optim.lr=1e-5", "lora={rank: 4}"])
    assert config.optim.lr == 1e-5 and config.lora is not None and config.lora.rank == 4
    config.save(tmp_path / "copy.yaml")
    assert load_config(tmp_path / "copy.yaml") == config
    assert set(yaml.safe_load((tmp_path / "copy.yaml").read_text())["optim"]) >= {"clip", "eps", "betas", "warmup"}
