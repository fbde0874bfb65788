"""The trainer's ways to and from the hub: s1K as it is published, data sets by name, cards, uploads."""

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.hub_card import check_card
from engine.text.tokenizer import Tokenizer
from tests.checkpoints import QWEN_TOKENIZER
from tests.hub_server import TOKEN, Hub, running_hub, use_hub
from tests.train.support import trainer, write_config, write_model, write_tokens
from train.config import Data
from train.data import read_dataset
from train.errors import TrainingError
from train.sft import main

LENGTHS = [12, 30, 7, 25, 18, 9, 40, 15]
SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
QUESTIONS = (("What is 2+2?", "Two and two.\n", "It is 4."), ("Was ist 7-3?", "7, 6, 5, 4.", "Answer: 4"))


def text_of(question: str, trace: str, attempt: str) -> str:
    """The `text` column of the tokenised sets, as s1's script renders it."""
    answer = attempt if "Answer:" in attempt else f"Answer: {attempt}"
    return (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
        f"<|im_start|>think\n{trace.strip()}\n<|im_start|>answer\n{answer.strip()}<|im_end|>\n"
    )


def published(name: str) -> bytes:
    """Two rows with the columns of simplescaling/`name`; what a reader must not take is wrong in them."""
    rows = []
    for question, trace, attempt in QUESTIONS:
        row: dict[str, Any] = {
            "solution": "not this",
            "question": question,
            "cot_type": "math",
            "source_type": "AI-MO/NuminaMath-CoT/aops_forum",
            "metadata": "{'answer': 'not this'}",
            "cot": None,
        }
        if name.startswith("s1K-1.1"):
            row |= {
                "gemini_thinking_trajectory": "not this",
                "gemini_attempt": "not this",
                "deepseek_thinking_trajectory": trace,
                "deepseek_attempt": attempt,
                "gemini_grade": "No",
                "gemini_grade_reason": "not this",
                "deepseek_grade": "Yes",
                "deepseek_grade_reason": "not this",
            }
        else:
            row |= {"thinking_trajectories": [trace], "attempt": attempt}
        rows.append(row | ({"text": text_of(question, trace, attempt)} if name.endswith("_tokenized") else {}))
    schema = pa.schema([(c, pa.string()) for c in rows[0] if c != "thinking_trajectories"])
    if "thinking_trajectories" in rows[0]:
        schema = schema.append(pa.field("thinking_trajectories", pa.list_(pa.string())))
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue()


SETS = ("s1K", "s1K-1.1", "s1K_tokenized", "s1K-1.1_tokenized")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "home")
        yield hub


@pytest.mark.skipif(not QWEN_TOKENIZER.is_dir(), reason="S1_DATA has no qwen2.5_tokenizer")
@pytest.mark.parametrize("name", SETS)
def test_s1k_is_read_as_it_is_published(name: str, tmp_path: Path) -> None:
    """Every form of it gives the tokens of the text that s1 trained on, and loss on what the assistant wrote."""
    tokenizer = Tokenizer.load(QWEN_TOKENIZER)
    (tmp_path / "a.parquet").write_bytes(published(name))
    data = read_dataset((str(tmp_path / "a.parquet"),), Data(train=("x",)), tokenizer, 152064)
    for i, sample in enumerate(QUESTIONS):
        part = slice(*data.offsets[i : i + 2])
        assert tokenizer.decode(data.tokens[part].tolist()) == text_of(*sample)
        trained = tokenizer.decode(data.tokens[part][data.trained[part]].tolist())
        assert trained == text_of(*sample).partition("<|im_start|>assistant\n")[2]


@pytest.mark.parametrize("name", SETS)
def test_s1k_trains_by_its_name_on_the_hub(name: str, hub: Hub, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", vocab=None)
    hub.add(f"simplescaling/{name}", {"data/train-00000-of-00001.parquet": published(name), "README.md": b"---\n---\n"})
    tree = {"train": [f"hub:simplescaling/{name}"], "loss": "assistant", "batch_size": 2}
    run = trainer(write_config(tmp_path / "run.yaml", model, tmp_path, data=tree))
    assert run.data.ids == tuple(f"hub:simplescaling/{name}/train-00000-of-00001.parquet:{i}" for i in (1, 2))
    assert run.fit()
    assert ModelCard.load(tmp_path / "run" / "export" / "README.md").data.datasets == [f"simplescaling/{name}"]


def test_data_by_path_by_pattern_and_by_name(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b", "a"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"id": name, "tokens": [1, 2]}) + "\n")
    rows = {split: json.dumps({"id": split, "tokens": [1, 2]}).encode() for split in ("train", "validation", "test")}
    hub.add("o/splits", {f"{split}.jsonl": row for split, row in rows.items()})
    config = Data(train=("x",), loss="all")

    def ids(*named: str, setting: str = "data.train") -> tuple[str, ...]:
        return read_dataset(named, config, None, 96, setting).ids

    assert ids("b.jsonl", "a.jsonl") == ("b", "a") and ids("*.jsonl") == ("a", "b")
    assert ids("hub:o/splits") == ("train",) and ids("hub:o/splits", setting="data.heldout") == ("validation",)
    assert ids("hub:o/splits/test.jsonl", setting="data.heldout") == ("test",)
    with pytest.raises(TrainingError, match=r"data.train: data file o/splits does not exist; .* written hub:o/splits"):
        ids("o/splits")
    with pytest.raises(TrainingError, match=r"data.heldout: the pattern c\*\.jsonl matches no file; give a file"):
        ids("c*.jsonl", setting="data.heldout")
    with pytest.raises(TrainingError, match=r"data.train: hub:o/nothing cannot be fetched .*hf auth login"):
        ids("hub:o/nothing")


def test_the_card_holds_what_the_run_knows(tmp_path: Path) -> None:
    base = write_model(tmp_path / "a base", dtype=torch.bfloat16, vocab=None)
    (base / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\nA base.\n")
    data, held = write_tokens(tmp_path / "data.jsonl", LENGTHS), write_tokens(tmp_path / "held.jsonl", LENGTHS[:3])
    tree = {"data": {"heldout": [str(held)]}, "epochs": 2, "lora": {"rank": 4, "alpha": 8}}
    sha256 = hashlib.sha256(data.read_bytes()).hexdigest()
    run = trainer(write_config(tmp_path / "tuned.yaml", base, data, **tree))
    data.write_text("what was there when the run ended")
    run.fit()
    records = [json.loads(line) for line in (tmp_path / "tuned" / "metrics.jsonl").open()]
    for folder, library in (("export", "transformers"), ("adapter", "peft")):
        check_card(tmp_path / "tuned" / folder, "model")
        card = ModelCard.load(tmp_path / "tuned" / folder / "README.md")
        head = card.data.to_dict()
        assert head["license"] == "cc-by-nc-4.0" and head["library_name"] == library and "lora" in head["tags"]
        assert not {"base_model", "datasets", "language"} & set(head), "a folder is no id on the hub"
        for said in (
            f"| data.jsonl | {sha256} |",
            f"8 samples of {sum(LENGTHS)} tokens, {run.data.targets.sum()} of which carry loss.",
            f"Held out: 3 samples of {sum(LENGTHS[:3])} tokens, held.jsonl (SHA-256 {run.heldout.files[0].sha256}).",  # type: ignore[union-attr]
            "| steps | 4 |",
            f"| loss of step 1 and step 4 | {records[1]['loss']:.4f}, {records[4]['loss']:.4f} |",
            f"| held-out loss before and after | {records[0]['heldout_loss']:.4f}, {records[4]['heldout_loss']:.4f} |",
            "| of what was learned, bfloat16 keeps | ",
            "| LoRA | rank 4, alpha 8, q_proj, ",
            "- Base: a base.\n- Licence: cc-by-nc-4.0, the base's.",
        ):
            assert said in card.text, said
        assert str(tmp_path) not in card.content, "whose machine it was is nobody's business"
    code = (tmp_path / "tuned" / "export" / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    code = code.replace("FOLDER", str(tmp_path / "tuned" / "export")).replace("2048", "4")
    exec(compile(code, "card", "exec"), {"print": lambda text: None})  # what the card says works
    assert AutoModelForCausalLM and AutoTokenizer


@pytest.mark.parametrize(
    ("readme", "licence", "head"),
    [
        (None, "unknown: ask the base's authors", {"license": "unknown"}),
        ("---\nlicense: unknown\n---\n", "unknown: ask the base's authors", {"license": "unknown"}),
        ("---\n[torn\n---\n", "unknown: ask the base's authors", {"license": "unknown"}),
        ("# Base\n\nLicense: Apache-2.0, as all.\n", "Apache-2.0, the base's", {"license": "apache-2.0"}),
        (
            "---\nlicense: other\nlicense_name: house-rules\n---\n",
            "house-rules, the base's",
            {"license": "other", "license_name": "house-rules"},
        ),
    ],
)
def test_a_licence_is_read_and_never_made_up(
    readme: str | None, licence: str, head: dict[str, str], tmp_path: Path
) -> None:
    base, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS[:4])
    if readme is not None:
        (base / "README.md").write_text(readme)
    trainer(write_config(tmp_path / "run.yaml", base, data)).fit()
    card = ModelCard.load(tmp_path / "run" / "export" / "README.md")
    assert f"- Licence: {licence}." in card.text
    assert {name: value for name, value in card.data.to_dict().items() if name.startswith("license")} == head


def test_several_licences_of_the_base_are_kept(tmp_path: Path) -> None:
    base, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS[:4])
    (base / "README.md").write_text("---\nlicense: [mit, apache-2.0]\n---\n")
    trainer(write_config(tmp_path / "run.yaml", base, data)).fit()
    card = ModelCard.load(tmp_path / "run" / "export" / "README.md")
    assert "- Licence: mit, apache-2.0, the base's." in card.text
    assert card.data.to_dict()["license"] == ["mit", "apache-2.0"]


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "lora"])
def test_what_the_owner_adds_to_a_card_stays(
    lora: object, hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A finished run is not exported again, and more training writes over no edited card."""
    base, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS[:4])
    config = write_config(tmp_path / "run.yaml", base, data, lora=lora)
    assert main([str(config)]) == 0
    run = tmp_path / "run"
    cards = [run / name / "README.md" for name in ("export", *(["adapter"] if lora else []))]
    for card in cards:
        card.write_text(card.read_text() + "\nFor research alone.\n")
    (run / "export" / "LICENSE").write_text("Mine.\n")
    weights = run / "export" / "model-00001-of-00001.safetensors"
    before = weights.stat()
    capfd.readouterr()
    assert main([str(config), "--push-to-hub", "me/tuned"]) == 0
    assert f"{run}/export is there already; nothing is left to train" in capfd.readouterr().err
    assert weights.stat().st_mtime_ns == before.st_mtime_ns
    files = hub.repositories["models", "me/tuned"].files
    assert files["README.md"].endswith(b"\nFor research alone.\n") and files["LICENSE"] == b"Mine.\n"
    assert main([str(config), "epochs=2"]) == 0
    said = capfd.readouterr().err
    assert weights.stat().st_mtime_ns != before.st_mtime_ns
    for card in cards:
        assert card.read_text().endswith("\nFor research alone.\n") and f"{card} was edited and stays" in said
    cards[0].unlink()
    assert main([str(config), "epochs=2"]) == 0
    assert "| epochs | 1; from step 2 on 2 |" in cards[0].read_text()
    assert ") in float32." in cards[0].read_text()
    assert main([str(config), "epochs=2", "checkpoint.export_dtype=bfloat16"]) == 0
    assert ") in bfloat16." in cards[0].read_text()


def test_a_base_from_the_hub_is_named_with_its_licence(hub: Hub, tmp_path: Path) -> None:
    base, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS[:4])
    files = {path.name: path.read_bytes() for path in base.iterdir()}
    hub.add("maker/base", files | {"README.md": b"---\nlicense: mit\n---\n"}, "models")
    trainer(write_config(tmp_path / "run.yaml", base, data), "model.path=maker/base").fit()
    head = ModelCard.load(tmp_path / "run" / "export" / "README.md").data.to_dict()
    assert (head["base_model"], head["license"]) == ("maker/base", "mit")


def test_an_upload_is_private_and_trains_on_from_its_name(
    hub: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    base, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS[:4])
    config = write_config(tmp_path / "run.yaml", base, data)
    assert main([str(config), "--push-to-hub", "me/tuned"]) == 0
    assert f"uploaded to {hub.url}/me/tuned" in capfd.readouterr().err
    repository = hub.repositories["models", "me/tuned"]
    assert repository.private and {"README.md", "config.json"} < set(repository.files)
    again = trainer(config, "model.path=me/tuned", f"run={tmp_path}/again")
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "export", dtype=torch.float32).state_dict()
    assert all(torch.equal(ours[name], tensor) for name, tensor in again.model.state_dict().items())


def test_an_upload_that_fails_says_what_to_run_and_the_same_command_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    base, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", LENGTHS[:4])
    config = write_config(tmp_path / "run.yaml", base, data)
    words = [str(config), "optim.lr=2e-3", "--push-to-hub", "me/tuned"]
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "home", None)
    assert main(words) == 2
    assert "--push-to-hub me/tuned: nobody is logged in" in capfd.readouterr().err and not (tmp_path / "run").exists()
    use_hub(monkeypatch, "http://127.0.0.1:9", tmp_path / "home", TOKEN)
    assert main([*words[:-1], "a/b/c"]) == 2 and "'a/b/c'; give OWNER/NAME" in capfd.readouterr().err
    assert main(words) == 1
    said = capfd.readouterr().err.splitlines()[-1]
    assert f"run `python -m train.sft {' '.join(words)}` again" in said and "Connection refused" in said
    assert (tmp_path / "run" / "export" / "README.md").is_file()
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with running_hub() as hub:
        use_hub(monkeypatch, hub.url, tmp_path / "home")
        assert main(words) == 0
        assert "README.md" in hub.repositories["models", "me/tuned"].files
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before, "it was trained again"
