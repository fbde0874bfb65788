"""The trainer's step on a card that is not there: packed attention by torch's CUDA kernel, one read by the host."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.autograd.function import BackwardCFunction

from kernels.dry_run import CUDA, DryRun
from tests.train.support import write_config, write_model, write_tokens
from train.config import load_config
from train.parallel import World
from train.sft import Trainer

WORLD = World(rank=0, size=1, context=1, device=CUDA, mesh=None, context_group=None)  # type: ignore[arg-type]
LENGTHS = [12, 30, 7, 25, 18, 9, 40, 15]


@torch.no_grad()
def backward(loss: torch.Tensor) -> None:
    """What autograd's engine does, node by node: the engine itself asks for a device's stream first."""
    order: list[Any] = []
    seen: set[Any] = set()

    def visit(node: Any) -> None:
        stack = [(node, False)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif node not in seen:
                seen.add(node)
                stack.append((node, True))
                stack.extend((following, False) for following, _ in node.next_functions if following is not None)

    visit(loss.grad_fn)
    grads: dict[Any, dict[int, torch.Tensor]] = {loss.grad_fn: {0: torch.ones_like(loss)}}
    for node in reversed(order):
        arrived = grads.pop(node, {})
        if hasattr(node, "variable"):
            parameter, grad = node.variable, arrived[0]
            assert grad.shape == parameter.shape and grad.dtype == parameter.dtype and grad.device == parameter.device
            parameter.grad = grad if parameter.grad is None else parameter.grad + grad
            continue
        call = node.apply if isinstance(node, BackwardCFunction) else node
        results = call(*(arrived.get(i) for i in range(len(node._input_metadata))))
        results = results if isinstance(results, tuple) else (results,)
        inputs = len(node.next_functions)  # of a function of our own: its tensors, which come first
        assert all(value is None for value in results[inputs:])
        for (following, index), grad in zip(node.next_functions, results[:inputs], strict=True):
            if following is not None and grad is not None:
                wanted = following._input_metadata[index]
                grad = grad.sum_to_size(wanted.shape).to(wanted.dtype)  # as the engine does: what was broadcast
                there = grads.setdefault(following, {})
                there[index] = grad if index not in there else there[index] + grad


@pytest.mark.parametrize("checkpointing", ["none", "selective", "full"])
@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_a_step_on_a_card(tmp_path: Path, checkpointing: str, lora: dict[str, int] | None, monkeypatch: Any) -> None:
    model = write_model(tmp_path / "model", hidden=64, heads=4, kv_heads=2, head_dim=16)
    data = write_tokens(tmp_path / "data.jsonl", LENGTHS)
    compute = {
        "device": "cuda",
        "dtype": "bfloat16",
        "master_dtype": "bfloat16",
        "checkpointing": checkpointing,
        "loss_chunk": 16,
    }
    config = write_config(tmp_path / "run.yaml", model, data, compute=compute, lora=lora)
    monkeypatch.setattr(torch.Tensor, "backward", backward)
    monkeypatch.setattr(torch._C, "_current_graph_task_id", lambda: 1)  # so that checkpoints are recomputed once
    with DryRun() as dry:
        run = Trainer(load_config(config), WORLD)
        assert {p.device for p in run.model.parameters()} == {CUDA}
        for step in range(2):
            dry.answer([1.0, 0.0, 1.0])
            attention = sum(n for name, n in dry.counts.operators.items() if "_varlen_attn" in name)
            record = run.train_step(step)
            assert sum(n for name, n in dry.counts.operators.items() if "_varlen_attn" in name) > attention
        assert dry.counts.reads == 2, "one transfer to the host per step"
    assert record["loss"] == 1.0 and record["mfu"] is not None
