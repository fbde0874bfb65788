"""The model and its training against transformers on the same documents, in float32."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch.utils.data import SequentialSampler
from transformers import AutoConfig, AutoModelForCausalLM, TrainingArguments
from transformers import Trainer as HfTrainer

from tests.engine.shapes import LLAMA3, YARN
from tests.engine.steps import Pages, load_decoder
from tests.rounding import decoder_roundings, likely, unit
from tests.train.support import dataset, relative, trainer, trajectory, write_config, write_model, write_tokens
from tests.train.two_ranks import first_step
from train.architecture import Architecture
from train.data import step_samples
from train.layout import build_batch, target_weights
from train.loss import chunked_cross_entropy
from train.model import Decoder

LENGTHS = [5, 17, 18, 9, 40]


def loss_off(arch: Architecture) -> float:
    """How far losses of ours and theirs may lie apart, relatively: both are wrong by as much."""
    return 2 * likely(decoder_roundings(arch, max(LENGTHS)) + arch.vocab_size + sum(LENGTHS))


def gradient_off(arch: Architecture) -> float:
    """Of gradients: there and back, twice the products on the way back."""
    return 2 * likely(3 * decoder_roundings(arch, max(LENGTHS)) + arch.vocab_size + sum(LENGTHS))


def make_pair(folder: Path, model_type: str, tied: bool, kv_heads: int, **rope: Any) -> tuple[Decoder, torch.nn.Module]:
    config = AutoConfig.for_model(
        model_type,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        head_dim=8,
        num_key_value_heads=kv_heads,
        vocab_size=96,
        tie_word_embeddings=tied,
        max_position_embeddings=256,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0, **rope},
        **({"sliding_window": None} if model_type == "mistral" else {}),
    )
    config.save_pretrained(folder)
    torch.manual_seed(1)
    theirs = AutoModelForCausalLM.from_config(config).float()
    for parameter in theirs.parameters():  # biases and norms would start at 0 and 1, where mistakes do not show
        parameter.data += 0.1 * torch.randn_like(parameter)
    ours = Decoder(Architecture.load(folder), loss_chunk=7)
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not missing and unexpected in ([], ["lm_head.weight"])
    assert ours.arch.num_parameters == sum(p.numel() for p in ours.parameters())
    return ours, theirs


@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
@pytest.mark.parametrize(
    ("model_type", "tied", "kv_heads", "rope"),
    [
        ("qwen2", False, 2, {}),
        ("qwen2", True, 1, YARN),
        ("qwen3", False, 4, {}),
        ("llama", True, 2, LLAMA3),
        ("mistral", False, 2, {}),
    ],
)
def test_packed_loss_and_gradients_equal_transformers(
    tmp_path: Path, model_type: str, tied: bool, kv_heads: int, rope: dict[str, Any], checkpointing: str
) -> None:
    """T1, with padding behind the stream and chunks that do not divide the rows."""
    ours, theirs = make_pair(tmp_path, model_type, tied, kv_heads, **rope)
    for block in ours.model.layers:
        block.checkpointing = checkpointing
    data = dataset(LENGTHS)
    weights = target_weights(data.targets, "sample_mean")
    loss = ours(build_batch(data, np.arange(len(data)), weights, multiple=8))
    loss.backward()
    expected = torch.zeros(())
    for i, weight in enumerate(weights):
        part = slice(data.offsets[i], data.offsets[i + 1])
        ids = torch.from_numpy(data.tokens[part].astype(np.int64))
        logits = theirs(ids[None]).logits[0, :-1]
        losses = F.cross_entropy(logits, ids[1:], reduction="none")
        expected = expected + float(weight) * losses[torch.from_numpy(data.trained[part][1:])].sum()
    expected.backward()
    assert abs(loss.item() - expected.item()) <= loss_off(ours.arch) * expected.item()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert relative(parameter.grad, gradients[name].grad) <= gradient_off(ours.arch), name


@pytest.mark.slow
def test_compiled_step_equals_the_plain_one(tmp_path: Path) -> None:
    model, data = write_model(tmp_path / "model"), write_tokens(tmp_path / "data.jsonl", [12, 30, 7, 25] * 3)
    config = write_config(tmp_path / "run.yaml", model, data, compute={"checkpointing": "selective"})
    plain = trainer(config)
    loss, gradients, _ = first_step(plain)
    compiled, others, _ = first_step(trainer(config, "compute.compile=true"))
    assert compiled == pytest.approx(loss, rel=loss_off(plain.arch))
    assert all(relative(others[name], gradients[name]) <= gradient_off(plain.arch) for name in gradients)


@pytest.mark.parametrize("reduction", ["sample_mean", "token_mean"])
def test_twenty_steps_equal_transformers_trainer(tmp_path: Path, reduction: str) -> None:
    """T2: same order, schedule, decay, clipping, reduction; HF sees one sample at a time, 4 accumulated."""
    model = write_model(tmp_path / "model")
    data = write_tokens(tmp_path / "data.jsonl", [12, 30, 7, 25, 18, 9, 40, 15] * 5)
    config = write_config(
        tmp_path / "run.yaml",
        model,
        data,
        epochs=2,
        reduction=reduction,
        optim={"lr": 5e-3, "weight_decay": 0.1, "clip": 0.5, "warmup_from": 0.0},
    )
    ours = trainer(config)
    assert ours.total_steps == 20
    order = [int(i) for step in range(20) for i in step_samples(42, step, len(ours.data), ours.config.data)]
    samples = []
    for i in order:
        part = slice(ours.data.offsets[i], ours.data.offsets[i + 1])
        ids = torch.from_numpy(ours.data.tokens[part].astype(np.int64))
        trained = torch.from_numpy(ours.data.trained[part])
        samples.append({"input_ids": ids, "labels": torch.where(trained, ids, -100)})
    losses: list[float] = []

    class Reference(HfTrainer):
        def _get_train_sampler(self, *args, **kwargs):
            return SequentialSampler(samples)

        def training_step(self, *args, **kwargs):
            loss = super().training_step(*args, **kwargs)
            losses.append(loss.item())
            return loss

    arguments = TrainingArguments(
        output_dir=str(tmp_path / "hf"),
        num_train_epochs=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=4,
        learning_rate=5e-3,
        lr_scheduler_type="cosine",
        warmup_steps=1,
        weight_decay=0.1,
        adam_beta1=0.9,
        adam_beta2=0.95,
        adam_epsilon=1e-8,
        max_grad_norm=0.5,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    theirs = Reference(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), arguments, train_dataset=samples
    )
    if reduction == "sample_mean":
        theirs.model_accepts_loss_kwargs = False  # each sample's own mean, averaged over the step: s1 on 16 GPUs
    theirs.train()
    expected = np.asarray(losses).reshape(20, 4).sum(1)
    got = np.asarray([ours.train_step(step)["loss"] for step in range(20)])
    assert got[-1] < got[0] - 0.05, "the run learns nothing: the comparison would prove little"
    # What twenty steps' gradients are off by is that share of what they change.
    moved = 20**0.5 * gradient_off(ours.arch) * np.ptp(expected)
    np.testing.assert_allclose(got, expected, rtol=loss_off(ours.arch), atol=moved)


def test_documents_do_not_see_each_other(tmp_path: Path) -> None:
    """T5: other tokens in one document leave every other document's token losses alone."""
    ours, _ = make_pair(tmp_path, "qwen2", False, 2)
    before = dataset(LENGTHS)
    for changed in range(len(LENGTHS)):
        after = dataset(LENGTHS)
        part = slice(after.offsets[changed], after.offsets[changed + 1])
        after.tokens[part] = (after.tokens[part] + 1) % 96
        losses = []
        for data in (before, after):
            batch = build_batch(data, np.arange(5), np.ones(5), multiple=16)
            logits = ours.hidden(batch) @ ours.lm_head.weight.T
            losses.append(F.cross_entropy(logits, batch.labels, reduction="none"))
        owner = torch.from_numpy(np.searchsorted(before.offsets, batch.rows.numpy(), side="right") - 1)
        difference = (losses[0] - losses[1]).abs()
        assert difference[owner != changed].max() <= loss_off(ours.arch) * losses[0].max()
        assert difference[owner == changed].max() > 1e-3


def test_a_rank_without_samples_has_zero_gradients(tmp_path: Path) -> None:
    """A micro-batch may be empty on some ranks; they take part with a loss and gradients of zero."""
    ours, _ = make_pair(tmp_path, "qwen2", False, 2)
    loss = ours(build_batch(dataset(LENGTHS), np.arange(0), np.ones(0)))
    loss.backward()
    assert loss == 0 and all(p.grad is not None and not p.grad.any() for p in ours.parameters())


@pytest.mark.parametrize("chunk", [1, 7, 24, 100])
def test_chunked_cross_entropy(chunk: int) -> None:
    """T6: any chunk size gives the full loss and gradients; bfloat16 stays close; no rows is finite, with gradients."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(24, 16), torch.randn(50, 16)
    labels, weights = torch.randint(50, (24,)), torch.rand(24)

    def run(dtype: torch.dtype, chunk: int, rows: int = 24) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h, w = hidden[:rows].to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()
        loss = chunked_cross_entropy(h, w, labels[:rows], weights[:rows], chunk)
        assert loss.dtype == torch.float32
        return (loss, *torch.autograd.grad(loss, [h, w]))

    full = torch.dot(F.cross_entropy(hidden @ weight.T, labels, reduction="none"), weights)
    exact = run(torch.float32, 24)
    got = run(torch.float32, chunk)
    # Logits of 16 terms and a loss of 50, then sums over the 24 rows; logits are up to four times the loss.
    off = 2 * 4 * likely(16 + 50 + 24)
    assert abs(got[0] - full) <= off * full
    assert relative(got[1], exact[1]) <= off and relative(got[2], exact[2]) <= off
    rounded = [x.bfloat16().float() for x in (hidden, weight)]
    wide = torch.dot(F.cross_entropy((rounded[0] @ rounded[1].T).bfloat16().float(), labels, reduction="none"), weights)
    assert abs(run(torch.bfloat16, chunk)[0] - wide) <= unit(torch.bfloat16) * wide, "a logit may round the other way"
    none = run(torch.float32, chunk, rows=0)
    assert none[0] == 0 and not none[2].any()


@pytest.mark.parametrize("tied", [False, True])
def test_export_equals_transformers_and_engine(tmp_path: Path, tied: bool) -> None:
    """T9: what was trained, transformers and our engine compute the same logits with; bfloat16 is the plain cast."""
    model = write_model(tmp_path / "model", tied=tied, shards=2)
    data = write_tokens(tmp_path / "data.jsonl", [12, 30, 7, 25, 18, 9, 40, 15])
    config = write_config(tmp_path / "run.yaml", model, data, checkpoint={"export_dtype": "float32"})
    ours = trainer(config)
    ours.fit()
    export = tmp_path / "run" / "export"
    assert not (export / "sharded").exists() and not export.with_name("export.partial").exists()
    assert (export / "tokenizer.json").exists() and (export / "tokenizer_config.json").exists()
    theirs = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32)
    tokens = ours.data.tokens[:40].astype(np.int64)
    with torch.no_grad():
        one = dataset([40])
        one.tokens[:], one.trained[:] = tokens, True
        hidden = ours.model.hidden(build_batch(one, np.arange(1), np.ones(1)))
        head = ours.model.model.embed_tokens.weight if tied else ours.model.lm_head.weight
        mine = hidden @ head.T
        expected = theirs(torch.from_numpy(tokens)[None]).logits[0, :-1]
        served = Pages(load_decoder(export, "float32"), [tokens.tolist()]).step({0: 40})[0][:-1, : mine.shape[1]]
    off = 2 * likely(decoder_roundings(ours.arch, 40))
    assert (mine - expected).abs().max() <= off * expected.abs().max()
    assert (served - expected).abs().max() <= off * expected.abs().max()
    ours.config = trainer(config, "checkpoint.export_dtype=bfloat16", "run=x").config
    ours.export()
    stored = {k: v for file in export.glob("*.safetensors") for k, v in load_file(file).items()}
    state = ours.model.state_dict()
    assert stored.keys() == state.keys() and json.loads((export / "config.json").read_text())["dtype"] == "bfloat16"
    assert all(stored[name].dtype == torch.bfloat16 and stored[name].equal(state[name].bfloat16()) for name in state)
    assert len(trajectory(tmp_path / "run")) == 2
