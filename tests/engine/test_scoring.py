"""Reward models: their heads against transformers, and scores of what goes on against scores of the whole."""

import contextlib
import json
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, AutoModelForSequenceClassification, AutoModelForTokenClassification

from engine import Engine, EngineDead, InputError, SamplingParams
from engine.model.config import ModelConfig
from tests.checkpoints import write_random_checkpoint
from tests.rounding import decoder_roundings, likely

ROOT = Path(__file__).parents[2]
HEADS = {
    "Qwen2ForProcessRewardModel": {"score.0.weight": (64, 64), "score.0.bias": (64,), "score.2.weight": (2, 64)}
    | {"score.2.bias": (2,)},
    "Qwen2ForRewardModel": {"score.0.weight": (64, 64), "score.0.bias": (64,), "score.2.weight": (1, 64)}
    | {"score.2.bias": (1,)},
    "Qwen2ForPrmModel": {"v_head.summary.weight": (1, 64), "v_head.summary.bias": (1,)},
    "LlamaForSequenceClassification": {"score.weight": (1, 64)},
    "Qwen3ForSequenceClassification": {"score.weight": (2, 64)},
    "Qwen2ForTokenClassification": {"score.weight": (2, 64), "score.bias": (2,)},
}


def write_scorer(folder: Path, architecture: str, keep_head: bool = False, **shape: Any) -> Path:
    """A random reward model: a random decoder with another head."""
    base = architecture.split("For")[0] + "ForCausalLM"
    write_random_checkpoint(folder, architecture=base, **shape)
    generator = torch.Generator().manual_seed(5)
    heads = {name: torch.randn(size, generator=generator) / 8 for name, size in HEADS[architecture].items()}
    tensors = load_file(folder / "model.safetensors") | heads
    if not keep_head:
        tensors.pop("lm_head.weight", None)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    labels = next(size[0] for name, size in reversed(HEADS[architecture].items()) if name.endswith("weight"))
    config |= {"architectures": [architecture], "id2label": {str(i): str(i) for i in range(labels)}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("scorers")
    return {name: write_scorer(root / name, name, keep_head="Reward" in name, head_dim=16) for name in HEADS}


@pytest.fixture(scope="module")
def prm(folders: dict[str, Path]) -> Iterator[Engine]:
    with Engine(folders["Qwen2ForProcessRewardModel"], device="cpu", page_size=16, max_num_batched_tokens=50) as engine:
        yield engine


def steps_of(seed: int, count: int = 9, longest: int = 40) -> tuple[list[int], list[list[int]]]:
    chance = random.Random(seed)
    return [chance.randrange(300) for _ in range(20)], [
        [chance.randrange(300) for _ in range(chance.randint(1, longest))] for _ in range(count)
    ]


def expected(folder: Path, architecture: str, ids: list[int], reads: list[int]) -> torch.Tensor:
    """By transformers: its own classifiers, and where the class is the checkpoint's, the documented layers on its
    decoder's states."""
    heads = {
        name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if name in HEADS[architecture]
    }
    kinds = {
        "SequenceClassification": AutoModelForSequenceClassification,
        "TokenClassification": AutoModelForTokenClassification,
    }
    kind = kinds.get(architecture.split("For")[1])
    with torch.inference_mode():
        if kind is AutoModelForTokenClassification:
            model = kind.from_pretrained(folder, dtype=torch.float32).eval()
            return torch.softmax(model(torch.tensor([ids])).logits[0, reads], -1)[:, 1]
        if kind is not None:  # reads the last token: one call for each position
            model = kind.from_pretrained(folder, dtype=torch.float32).eval()
            model.config.pad_token_id = -1
            out = torch.cat([model(torch.tensor([ids[: at + 1]])).logits for at in reads])
            return out[:, 0] if out.shape[1] == 1 else torch.softmax(out, -1)[:, 1]
        config = json.loads((folder / "config.json").read_text())
        copy = folder / "decoder"
        copy.mkdir(exist_ok=True)
        (copy / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen2Model"]}))
        (copy / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        hidden = (
            AutoModel.from_pretrained(copy, dtype=torch.float32).eval()(torch.tensor([ids])).last_hidden_state[0, reads]
        )
        if "v_head.summary.weight" in heads:
            layer = nn.Linear(64, 1)
            layer.load_state_dict({"weight": heads["v_head.summary.weight"], "bias": heads["v_head.summary.bias"]})
            return torch.sigmoid(layer(hidden))[:, 0]
        head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, len(heads["score.2.bias"])))
        head.load_state_dict({name.removeprefix("score."): tensor for name, tensor in heads.items()})
        out = head(hidden)
        return out[:, 0] if out.shape[1] == 1 else torch.softmax(out, -1)[:, 1]


@pytest.mark.parametrize("architecture", HEADS)
def test_scores_are_those_of_transformers(folders: dict[str, Path], architecture: str) -> None:
    prompt, steps = steps_of(1)
    ids, reads = list(prompt), []
    for step in steps:
        ids += step
        reads.append(len(ids) - 1)
    with Engine(folders[architecture], device="cpu", dtype="float32") as engine:
        scores = engine.score(prompt, steps)
        with pytest.raises(InputError, match="is a reward model"):
            engine.generate([prompt])
        with pytest.raises(InputError, match="labels are given"):
            engine.score(prompt, steps, labels=("1", "2"))
    exact = expected(folders[architecture], architecture, ids, reads)
    bound = likely(decoder_roundings(ModelConfig.load(folders[architecture]), len(ids)) + 64) * 64
    assert scores.computed == len(ids) and len(set(scores.values)) == len(steps)
    assert (torch.tensor(scores.values) - exact).abs().max() < bound


def test_a_language_model_scores_by_the_probability_of_a_token(folders: dict[str, Path], tmp_path: Path) -> None:
    """The first of some tokens at a mark, as Math-Shepherd and RLHFlow read theirs; beside requests that draw."""
    folder = write_random_checkpoint(tmp_path / "lm")
    prompt, steps = steps_of(2, 4)
    with Engine(folder, device="cpu", dtype="float32", thinking_format="none") as engine:
        drawn = [engine.submit(prompt, SamplingParams(max_tokens=30, seed=n, temperature=1.0)) for n in range(4)]
        scores = engine.score(prompt, steps, mark="\n", labels=("7", "3", "1"))
        newline, seven, three, one = (engine.tokenizer.encode(text)[0] for text in "\n731")
        ids = list(prompt)
        for step, value in zip(steps, scores.values, strict=True):
            ids += [*step, newline]
            probe = SamplingParams(max_tokens=1, logprobs=0)
            chosen = [
                engine.generate([ids], SamplingParams(max_tokens=1, logprobs=0, allowed_token_ids=(token,)))[0]
                for token in (seven, three, one)
            ]
            logs = torch.tensor([c.outputs[0].cumulative_logprob for c in chosen])
            assert value == pytest.approx(torch.softmax(logs, 0)[0].item(), abs=1e-5), probe
        alone = [handle.result().outputs[0].token_ids for handle in drawn]
        again = engine.generate(
            [prompt] * 4, [SamplingParams(max_tokens=30, seed=n, temperature=1.0) for n in range(4)]
        )
        assert [a.outputs[0].token_ids for a in again] == alone
        for labels, said in (
            ((), "no reward model"),
            (("7",), "two or more"),
            (("7", "7"), "two or more"),
            (("12", "1"), "2 tokens"),
        ):
            with pytest.raises(InputError, match=said):
                engine.score(prompt, steps, labels=labels)


def test_what_goes_on_is_scored_as_the_whole_bit_for_bit(folders: dict[str, Path], prm: Engine) -> None:
    """Step by step on cached pages, with siblings, against one request for all: equal, at the new tokens' cost."""
    prompt, steps = steps_of(3, 20, 30)
    with Engine(folders["Qwen2ForProcessRewardModel"], device="cpu") as fresh:
        whole = fresh.score(prompt, steps)
        assert (whole.computed, whole.reused) == (len(prompt) + sum(map(len, steps)), 0)
    for depth in range(1, 21):
        sibling = prm.submit_score(prompt, [*steps[: depth - 1], [7, depth]])
        scores = prm.score(prompt, steps[:depth])
        assert scores.values == whole.values[:depth]
        shared = len(prompt) + sum(map(len, steps[: depth - 1]))
        if depth > 1:
            assert (sibling.result().computed, scores.computed) == (2, len(steps[depth - 1]))
        assert scores.computed + scores.reused == shared + len(steps[depth - 1])
    twice = prm.score(prompt, steps)
    assert twice.values == whole.values and (twice.computed, twice.reused) == (0, whole.computed)
    assert prm.score(prompt, [*steps, steps[0]]).values[:20] == whole.values, "earlier scores are not asked for again"
    prm.check()


def test_scores_survive_eviction_and_preemption(folders: dict[str, Path]) -> None:
    """A pool that holds a third of what is scored at once."""
    texts = [steps_of(seed, 6, 40) for seed in range(12)]
    folder = folders["Qwen2ForProcessRewardModel"]
    with (
        Engine(folder, device="cpu") as roomy,
        Engine(folder, device="cpu", page_size=16, kv_cache_tokens=512) as tight,
    ):
        exact = [roomy.score(*text).values for text in texts]
        for depth in (3, 6):
            asked = [tight.submit_score(prompt, steps[:depth]) for prompt, steps in texts]
            assert [scoring.result().values for scoring in asked] == [values[:depth] for values in exact]
        tight.check()
        assert tight.stats()["pages_free"] == tight.stats()["pages_total"]


def test_a_path_may_fill_the_context(folders: dict[str, Path]) -> None:
    with Engine(folders["Qwen2ForProcessRewardModel"], device="cpu", max_model_len=64, page_size=8) as engine:
        assert len(engine.score([1, 2, 3], [[7] * 61]).values) == 1
        with pytest.raises(InputError, match="64"):
            engine.score([1, 2, 3], [[7] * 62])


def test_the_command_line_refuses_a_reward_model(folders: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    words = ["--model", str(folders["Qwen2ForProcessRewardModel"]), "--prompt", "Why?", "--output", str(out)]
    done = subprocess.run([sys.executable, "-m", "engine.generate", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and "is a reward model, which writes nothing" in done.stderr and not out.exists()


def test_threads_ask_at_once(prm: Engine) -> None:
    texts = [steps_of(100 + seed % 3, 5) for seed in range(24)]
    found: list[Any] = [None] * 24

    def ask(number: int) -> None:
        found[number] = prm.score(*texts[number]).values

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({*found}) == 3 and all(found[n] == found[n % 3] for n in range(24))


@pytest.mark.parametrize(
    ("steps", "mark", "said"),
    [
        ([], None, "steps is"),
        (5, None, "steps is"),
        ([5], None, "steps is"),
        ([None], None, "steps is"),
        ([b"abc"], None, "steps is"),
        ({"a": 1}, None, "steps is"),
        ("text", None, "steps is"),
        ([[1], []], None, r"steps\[1\] has no tokens"),
        ([[1], [10**6]], None, r"steps\[1\]\[0\]"),
        ([[1]], "two tokens", "mark has"),
        ([[1]], -1, "mark"),
        ([[5] * 600], None, "context"),
    ],
)
def test_what_cannot_be_scored_is_refused(prm: Engine, steps: Any, mark: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        prm.score([1, 2, 3], steps, mark)


def test_a_closed_engine_leaves_nobody_waiting(folders: dict[str, Path]) -> None:
    engine = Engine(folders["Qwen2ForProcessRewardModel"], device="cpu")
    asked = [engine.submit_score([seed], [[seed] * 400]) for seed in range(40)]
    asked[-1].abort()
    engine.close()
    for scoring in asked:
        with contextlib.suppress(EngineDead):
            assert len(scoring.result(5).values) == 1
    with pytest.raises(EngineDead):
        engine.score([1], [[2]])


def test_two_ranks_score_alike(folders: dict[str, Path]) -> None:
    prompt, steps = steps_of(4)
    folder = folders["Qwen2ForProcessRewardModel"]
    with Engine(folder, device="cpu") as one, Engine(folder, device="cpu", tensor_parallel_size=2) as two:
        single = torch.tensor(one.score(prompt, steps).values)
        double = torch.tensor(two.score(prompt, steps).values)
    bound = likely(decoder_roundings(ModelConfig.load(folder), 400) + 64) * 64
    assert (single - double).abs().max() < bound


def test_a_head_of_other_labels_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = write_scorer(tmp_path / "three", "Qwen2ForTokenClassification")
    config = json.loads((folder / "config.json").read_text())
    for change, said in (
        ({"id2label": {str(i): "x" for i in range(3)}}, "3 labels"),
        ({"num_labels": True}, "True labels"),
        ({"num_labels": 2.0}, "2.0 labels"),
        ({"architectures": ["GemmaForTokenClassification"]}, "architectures is"),
        ({"architectures": ["Qwen2ForProcessRewardModel"]}, r"score.0.weight is missing"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=said):
            Engine(folder, device="cpu")
