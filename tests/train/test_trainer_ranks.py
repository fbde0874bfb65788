"""Two Gloo ranks against one process: gradients, resuming on another world size, a poisoned rank, LoRA."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.rounding import decoder_roundings, likely
from tests.train.support import ROOT, environment, trainer, trajectory, write_config, write_model, write_tokens
from tests.train.two_ranks import COMBINED, first_step
from train.architecture import Architecture
from train.data import step_samples

LENGTHS = [31, 7, 22, 15, 40, 9, 18, 26] * 4
# The token whose embedding is not a number; healthy samples use only smaller ones.
POISON = 95


def write_poisoned(folder: Path, model: Path) -> None:
    """A model with one NaN embedding row, and data in which one sample of the third step has that token."""
    tensors = load_file(model / "model.safetensors")
    tensors["model.embed_tokens.weight"][POISON] = float("nan")
    (folder / "poison").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / "poison" / name).write_bytes((model / name).read_bytes())
    save_file(tensors, folder / "poison" / "model.safetensors")
    data = write_tokens(folder / "poison.jsonl", LENGTHS, vocab=POISON)
    config = write_config(folder / "poison.yaml", folder / "poison", data, checkpoint={"every": 1})
    victim = step_samples(42, 2, len(LENGTHS), trainer(config).config.data)[0]
    lines = [json.loads(line) for line in data.open()]
    lines[victim]["tokens"][0] = POISON
    data.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    model, data = write_model(folder / "model"), write_tokens(folder / "data.jsonl", LENGTHS)
    wide: dict[str, Any] = {"data": {"batch_size": 16}}
    gradients = write_config(folder / "gradients.yaml", model, data, **wide)
    for reduction in COMBINED:
        loss, grads, micro = first_step(trainer(gradients, f"reduction={reduction}"))
        assert micro == 1
        torch.save({"loss": loss, "gradients": grads}, folder / f"{reduction}.pt")
    for name in ("up", "down", "alone"):
        write_config(folder / f"{name}.yaml", model, data, epochs=2, **wide)
    trainer(folder / "alone.yaml").fit()
    up = trainer(folder / "up.yaml")
    up.told_to_stop = True  # after one step, as by a SIGTERM
    up.fit()
    assert len(trajectory(folder / "up")) == 1
    for name in ("lora", "lora_alone"):
        lora = {"lora": {"rank": 2}, "checkpoint": {"export_dtype": "float32"}}
        write_config(folder / f"{name}.yaml", model, data, **lora, **wide)
    write_poisoned(folder, model)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.train.two_ranks"]
    done = subprocess.run(
        [sys.executable, *torchrun, str(folder)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads((folder / "results.json").read_text())


@pytest.mark.parametrize("reduction, layout", [(one, name) for one, layouts in COMBINED.items() for name in layouts])
def test_any_layout_gives_the_same_step(ranks: tuple[Path, dict[str, Any]], layout: str, reduction: str) -> None:
    """T3 and T4: 16 samples on one process, and as 2 x 8, 2 x (4 + 4), and cut over two context-parallel ranks."""
    loss, gradient, micro = ranks[1]["layouts"][f"{reduction}, {layout}"]
    roundings = decoder_roundings(Architecture.load(ranks[0] / "model" / "config.json"), max(LENGTHS)) + sum(LENGTHS)
    assert loss <= 2 * likely(roundings) and gradient <= 2 * likely(3 * roundings)
    assert (micro > 1) == ("micro" in layout or "4 + 4" in layout)


def test_resume_on_another_world_size(ranks: tuple[Path, dict[str, Any]]) -> None:
    """T8: 1 -> 2 and 2 -> 1 ranks."""
    folder, _ = ranks
    assert len(trajectory(folder / "down")) == 1, "one rank was told to stop; both had to"
    trainer(folder / "down.yaml").fit()
    expected = trajectory(folder / "alone")
    assert len(expected) == 4
    roundings = decoder_roundings(Architecture.load(folder / "model" / "config.json"), max(LENGTHS)) + sum(LENGTHS)
    for name in ("up", "down"):
        got = trajectory(folder / name)
        assert [(s[0], s[4], s[5]) for s in got] == [(s[0], s[4], s[5]) for s in expected]  # step, rate, samples
        for mine, theirs in zip(got, expected, strict=True):
            assert mine[2:4] == pytest.approx(theirs[2:4], rel=2 * likely(4 * 3 * roundings), abs=0)


def test_not_a_number_stops_all_ranks_before_the_update(ranks: tuple[Path, dict[str, Any]]) -> None:
    """T13: both ranks raise at step 3, no other weight was touched, and the checkpoint of step 2 is the last."""
    folder, results = ranks
    for message in results["poison"]["messages"]:
        assert message.startswith("step 3: loss nan") and "last checkpoint is intact" in message
    assert results["poison"]["harmed"] == 1, "the poisoned embedding itself"
    assert len(trajectory(folder / "poison")) == 2
    assert max(p.parent.name for p in (folder / "poison" / "checkpoints").glob("*/complete.json")) == "step-00000002"


def test_lora_on_two_ranks_exports_what_one_process_does(ranks: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = ranks
    alone = trainer(folder / "lora_alone.yaml")
    alone.fit()
    rate = sum(step[4] for step in trajectory(folder / "lora_alone"))
    off = 2 * likely(3 * (decoder_roundings(alone.arch, max(LENGTHS)) + sum(LENGTHS)))
    for file in ("adapter/adapter_model.safetensors", "export/model-00001-of-00001.safetensors"):
        two, one = load_file(folder / "lora" / file), load_file(folder / "lora_alone" / file)
        assert two.keys() == one.keys()
        for name in one:
            # Adam divides by the gradient's size: of a normal one, a share `off` is as small as its own rounding, and
            # there a weight may move by twice the rate the other way.
            moved = 2 * rate * off**0.5
            assert (two[name] - one[name]).square().mean() <= moved**2 + (off * one[name]).square().mean(), name
