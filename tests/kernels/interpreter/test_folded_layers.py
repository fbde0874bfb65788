"""Layers whose norms, additions and activations are part of their products, against plain ones: whole decodes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.model.batch import AttentionMeta
from engine.model.config import ModelConfig
from engine.model.decoder import Decoder
from engine.ranks.group import Group
from kernels import rms_norm, silu_mul, small_gemm
from tests.checkpoints import write_random_checkpoint
from tests.rounding import decoder_roundings, likely

NANO = Path(__file__).parents[3] / "models" / "s1-nano"
STEPS, PAGE = 17, 16
"""A token to begin with, and sixteen that are drawn: the last ones are on a second page."""
SHAPES: list[dict[str, Any] | None] = [
    None,  # s1-nano
    {"hidden": 200, "heads": 10, "kv_heads": 2, "head_dim": 32, "layers": 1, "intermediate": 1030, "seed": 3},
    {
        "architecture": "Qwen3ForCausalLM",
        "hidden": 72,
        "heads": 4,
        "kv_heads": 4,
        "head_dim": 16,
        "layers": 2,
        "seed": 5,
    },
]


def decode(decoder: Decoder, rows: int, tokens: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """`rows` sequences at once, greedily or over the `tokens` that another run drew: those, [STEPS + 1, rows], and the
    logits of every step, [STEPS, rows, V]."""
    kv = decoder.new_kv_cache(2 * rows, PAGE)
    device = decoder.group.device
    tables = torch.arange(2 * rows, dtype=torch.int32, device=device).view(rows, 2)
    drawn, logits = [torch.arange(rows, device=device) + 3], []
    for at in range(STEPS):
        places = torch.full((rows,), at, device=device)
        meta = AttentionMeta(
            slot_mapping=tables[:, at // PAGE].long() * PAGE + at % PAGE,
            block_tables=tables,
            context_lens=(places + 1).int(),
            num_decodes=rows,
            cu_q=torch.zeros(1, dtype=torch.int32, device=device),
            max_q=0,
            max_context=at + 1,
        )
        ids = drawn[at] if tokens is None else tokens[at]
        logits.append(decoder.logits(decoder.forward(ids, places, meta, kv)).clone())
        drawn.append(logits[-1].argmax(1))
    return torch.stack(drawn), torch.stack(logits)


@contextmanager
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the row kernels and products that run inside."""
    names: list[str] = []
    for module in (rms_norm, silu_mul, small_gemm):
        name = f"_{module.__name__.removeprefix('kernels.')}_kernel"
        kernel = getattr(module, name)

        class Noted:
            def __getitem__(self, grid: Any, kernel: Any = kernel, name: str = name) -> Any:
                names.append(name)
                return kernel[grid]

        monkeypatch.setattr(module, name, Noted())
    yield names
    monkeypatch.undo()


@pytest.mark.parametrize(
    "shape, rows, rule", [(SHAPES[0], 1, "folded"), (SHAPES[1], 3, "folded"), (SHAPES[2], 2, "dependent")]
)
def test_folded_layers_decode_the_same_tokens(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: Any, rows: int, rule: str
) -> None:
    """In float32, over the same tokens: the next one differs only where the two best are closer than rounding tells."""
    if rule == "dependent" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (9, 0):
        rule = "folded"  # dependent launches need sm_90
    folder = NANO if shape is None else write_random_checkpoint(tmp_path / "model", **shape)
    config = ModelConfig.load(folder, dtype="float32")
    decoder = Decoder.load(folder, config, Group.single(device), 64)
    layers = config.num_layers
    with launches(monkeypatch) as names:
        tokens, plain = decode(decoder, rows)
    assert names.count("_rms_norm_kernel") == (2 * layers + 1) * STEPS and "_small_gemm_kernel" not in names
    with launches(monkeypatch) as names:
        monkeypatch.setenv("S1_GEMM_TABLE", rule)
        found, folded = decode(decoder, rows, tokens)
    assert names.count("_small_gemm_kernel") == 4 * layers * STEPS and "_silu_mul_kernel" not in names
    assert names.count("_rms_norm_kernel") == 2 * STEPS, "the first of a step and the last"
    off = 2 * likely(decoder_roundings(config, STEPS)) * plain.abs().max()
    torch.testing.assert_close(folded, plain, atol=float(off), rtol=0)
    assert not torch.equal(folded, plain), "nothing else ran"
    best = plain.topk(2, dim=2).values
    told = best[..., 0] - best[..., 1] > 2 * off
    assert told.float().mean() > 0.8, "hardly anything was compared"
    assert torch.equal(found[1:][told], tokens[1:][told])
