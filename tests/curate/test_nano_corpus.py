"""The training files of s1-nano: nothing held out is in them; every wrong answer is a marked slip that is corrected."""

import json
from itertools import islice

import pytest
from tokenizers import Tokenizer

from curate.families import check, problems
from curate.nano.corpus import EVEN, MIX, pretraining_records, sft_records
from curate.nano_build import write_base
from engine.text import tokenizer as engine_tokenizer
from train.config import Data
from train.data import read_dataset

COUNT = 600


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    write_base(folder, seed=0)
    return folder


@pytest.fixture(scope="module")
def tokenizer(base):
    return Tokenizer.from_file(str(base / "tokenizer.json"))


@pytest.fixture(scope="module")
def pretraining(tokenizer):
    return list(pretraining_records(tokenizer, COUNT, seed=0))


def test_no_heldout_question_is_in_a_training_file(pretraining):
    heldout = list(islice(problems("heldout", 7), 2000))
    trained = {r["question"] for r in pretraining} | {r["question"] for r in sft_records(COUNT, seed=0)}
    assert len(trained) > COUNT and not {p.prompt for p in heldout} & trained
    sources = (problems("train", 0, MIX, EVEN), problems("train", 1000))
    drawn = [p for source in sources for p in islice(source, COUNT)]
    assert {p.prompt for p in drawn} == trained, "a training file holds a question that the train side did not give"
    assert not {(p.family, p.key) for p in heldout} & {(p.family, p.key) for p in drawn}


def test_final_answers_pass_or_are_marked_slips_that_a_wait_corrects(tokenizer, pretraining):
    slips = 0
    for record in [*pretraining, *sft_records(COUNT, seed=0)]:
        assert record["slip"] == (not check(record["family"], record["question"], record["answer"]))
        thinking = record.get("thinking")
        if thinking is None:
            text = tokenizer.decode(record["tokens"], skip_special_tokens=False)
            assert text.endswith(f"Answer: {record['answer']}<|im_end|>\n")
            thinking = text.split("<|im_start|>think\n")[1].split("<|im_start|>answer")[0].rstrip("\n")
        if record["slip"]:
            slips += 1
            corrected = record["corrected"]
            assert corrected["thinking"].startswith(thinking)
            assert check(record["family"], record["question"], corrected["answer"])
    assert 0.2 < slips / (2 * COUNT) < 0.6


def test_what_the_engine_writes_carries_no_loss(tokenizer, pretraining):
    wait, waits, cuts = tokenizer.token_to_id("Wait"), 0, 0
    forced = tokenizer.encode("<|im_start|>answer\nFinal Answer:", add_special_tokens=False).ids
    for record in pretraining:
        tokens, trained = record["tokens"], record["trained"]
        assert len(tokens) == len(trained) and trained[-1] == 1
        waits += tokens.count(wait)
        assert not any(t for token, t in zip(tokens, trained, strict=True) if token == wait)
        at = next((i for i in range(len(tokens)) if tokens[i : i + len(forced)] == forced), None)
        if at is not None:
            cuts += 1
            assert not any(trained[at : at + len(forced)]) and all(trained[at + len(forced) :])
    assert waits > COUNT / 2 and cuts > COUNT / 5


def test_tokenizer_is_ready_for_what_the_engine_forces(base, tokenizer):
    wait = tokenizer.encode("Wait", add_special_tokens=False).ids
    assert len(wait) == 1 and tokenizer.encode("no\nWait", add_special_tokens=False).ids[-1:] == wait
    assert tokenizer.encode("1234", add_special_tokens=False).tokens == list("1234")
    text = "Zoë asked: 3 < 5?\n\t<|im_start|>"
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False).ids, skip_special_tokens=False) == text
    config = json.loads((base / "config.json").read_text())
    assert tokenizer.get_vocab_size() <= config["vocab_size"]


def test_the_trainer_reads_both_files_alike(base, tokenizer, pretraining, tmp_path):
    """One SFT record, rendered by the trainer through the chat template, gives the tokens of the pretraining mix."""
    answered = [r for r in pretraining if "Final" not in tokenizer.decode(r["tokens"])]
    full = next(r for r in answered if tokenizer.token_to_id("Wait") not in r["tokens"])
    text = tokenizer.decode(full["tokens"], skip_special_tokens=False)
    thinking = text.split("<|im_start|>think\n")[1].split("\n<|im_start|>answer")[0]
    record = {"question": full["question"], "thinking": thinking, "answer": full["answer"]}
    (tmp_path / "sft.jsonl").write_text(json.dumps(record) + "\n" + json.dumps(full) + "\n")
    data = read_dataset((str(tmp_path / "sft.jsonl"),), Data(train=("x",)), engine_tokenizer.Tokenizer.load(base), 768)
    first, second = (data.tokens[data.offsets[i] : data.offsets[i + 1]].tolist() for i in range(2))
    assert first == second == full["tokens"]
    assert data.trained[: data.offsets[1]].tolist() == data.trained[data.offsets[1] :].tolist()
