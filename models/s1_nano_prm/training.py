"""Training: s1-nano's decoder with a head of two layers, on the steps of traces up to their first error.

The head is Qwen2.5-Math-PRM's (arXiv 2501.07301, 4.1): [H, H], ReLU, [2, H]; cross entropy at the last token of every
step, the two classes weighed by how rare they are. Steps behind the first error have no label; the answer always has.
"""

import json
import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from engine.errors import InputError, tell
from models.s1_nano_prm.traces import Trace
from train.architecture import Architecture
from train.attention import Documents
from train.huggingface import load_weights
from train.layout import Batch
from train.model import Decoder

Labels = Literal["exact", "rollouts"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What makes one variant differ from another."""

    labels: Labels = "exact"
    whole: bool = True
    """Train the decoder too; otherwise the head alone, on the policy's own states."""
    epochs: int = 3
    batch_tokens: int = 8192
    learning_rate: float = 5e-4
    seed: int = 0


class Scorer(nn.Module):
    """A decoder and its head; parameter names are the checkpoint's."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        decoder = Decoder(arch)
        self.model, self.decoder = decoder.model, (decoder,)  # in a tuple: no module of this one
        width = arch.hidden_size
        self.score = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits [targets, 2] float32 at the rows of `batch`."""
        return self.score(self.decoder[0].hidden(batch))


def labels_of(trace: Trace, labels: Labels) -> list[tuple[int, int]]:
    """(position of a step's last token, 0 or 1) of every step that has a label."""
    dead = trace.first_error if labels == "exact" else trace.first_dead
    last = len(trace.ends) - 1
    found = []
    for at in range(last if dead is None else min(dead + 1, last)):
        good = trace.steps[at] if labels == "exact" else int(at != dead)
        if good is not None:
            found.append((len(trace.prompt_ids) + trace.ends[at] - 1, good))
    return [*found, (len(trace.prompt_ids) + trace.ends[last] - 1, int(trace.right))]


def batch_of(traces: Sequence[Trace], labels: Labels) -> Batch:
    """Packed traces; weights are one each."""
    ids, rows, targets, lengths = list[int](), list[int](), list[int](), list[int]()
    for trace in traces:
        for position, good in labels_of(trace, labels):
            rows.append(len(ids) + position)
            targets.append(good)
        ids += [*trace.prompt_ids, *trace.token_ids]
        lengths.append(len(trace.prompt_ids) + len(trace.token_ids))
    return Batch(
        ids=torch.tensor(ids),
        documents=Documents.slice(lengths, 0, len(ids)),
        rows=torch.tensor(rows),
        labels=torch.tensor(targets),
        weights=torch.ones(len(rows)),
    )


def train(base: Path, traces: Sequence[Trace], recipe: Recipe) -> Scorer:
    """A trained scorer in float32. Deterministic on one machine: order and weights follow from the seed."""
    torch.manual_seed(recipe.seed)
    arch = replace(Architecture.load(base), dtype=torch.float32)
    scorer = Scorer(arch)
    load_weights(scorer.decoder[0], base)
    scorer.model.requires_grad_(recipe.whole)
    goods = [good for trace in traces for _, good in labels_of(trace, recipe.labels)]
    if len({*goods}) < 2:
        raise InputError(f"{len(traces):,} traces have no two kinds of labels; sample more")
    share = sum(goods) / len(goods)
    weigh = torch.tensor([0.5 / (1 - share), 0.5 / share])
    batches = _batches(traces, recipe)
    optimiser = torch.optim.AdamW(
        [parameter for parameter in scorer.parameters() if parameter.requires_grad],
        recipe.learning_rate,
        weight_decay=0.01,
    )
    scorer.train()
    for step, part in enumerate(batches):
        batch = batch_of(part, recipe.labels)
        done = step / len(batches)
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * min(1, done / 0.05 + 0.05) * (0.5 + 0.5 * math.cos(math.pi * done))
        loss = F.cross_entropy(scorer(batch), batch.labels, weigh)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
        optimiser.step()
        if step % 50 == 0:
            tell(f"step {step} of {len(batches)}: loss {loss.item():.3f}", "note")
    return scorer.eval()


def _batches(traces: Sequence[Trace], recipe: Recipe) -> list[list[Trace]]:
    """All epochs: each in an order of its own, cut where `batch_tokens` are full."""
    chance, found = random.Random(recipe.seed), []
    for _ in range(recipe.epochs):
        part, size = list[Trace](), 0
        for trace in chance.sample(list(traces), len(traces)):
            part.append(trace)
            size += len(trace.prompt_ids) + len(trace.token_ids)
            if size >= recipe.batch_tokens:
                found.append(part)
                part, size = [], 0
        if part:
            found.append(part)
    return found


@torch.inference_mode()
def judged(scorer: Scorer, traces: Sequence[Trace]) -> list[list[float]]:
    """For each trace the probability of every step that it is right."""
    found = []
    for trace in traces:
        rows = [len(trace.prompt_ids) + end - 1 for end in trace.ends]
        plain = batch_of([trace], "exact")
        logits = scorer(
            replace(plain, rows=torch.tensor(rows), labels=torch.zeros(len(rows)), weights=torch.ones(len(rows)))
        )
        found.append(torch.softmax(logits, -1)[:, 1].tolist())
    return found


def write_checkpoint(scorer: Scorer, base: Path, folder: Path) -> None:
    """A folder that the engine and vLLM load as a process reward model: bfloat16, s1-nano's tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(base / name, folder / name)
    config = json.loads((base / "config.json").read_text())
    config |= {"architectures": ["Qwen2ForProcessRewardModel"], "num_labels": 2}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in scorer.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
