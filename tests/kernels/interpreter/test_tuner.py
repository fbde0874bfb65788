"""The tuner of the products: it times, checks and records every candidate; the table says what the records say."""

from dataclasses import replace

import pytest
import torch
from rich.console import Console

from bench import gemm, record
from bench.shapes import SHAPES
from kernels.gemm_choices import Product, pick, read_choices


@pytest.fixture
def records(device, tmp_path) -> list[record.Record]:
    """Two products of a tiny model, each at two numbers of tokens."""
    options = gemm.Options(shape="tiny", tokens=(2, 5), only=("qkv", "gate_up"), output=tmp_path / "gemm.jsonl")
    gemm.run(options, device, Console(quiet=True))
    gemm.run(replace(options, resume=True), device, Console(quiet=True))  # adds nothing
    return record.read(tmp_path / "gemm.jsonl")


def test_what_is_timed_becomes_the_table(records, tmp_path):
    assert [(line.case["name"], line.case["tokens"]) for line in records] == [
        ("qkv", 2),
        ("qkv", 5),
        ("gate_up", 2),
        ("gate_up", 5),
    ]
    assert all(line.figures["ours_us"] for line in records), "some candidate is right"
    # Whatever won here: let the kernel win at qkv with 5 tokens and gate_up with 2, and lose elsewhere.
    times = [(10.0, 9.9), (10.0, 5.0), (10.0, 5.0), (10.0, 20.0)]
    decided = [
        replace(line, figures={**line.figures, "rival_us": rival, "ours_us": ours, "prefetch": 4.0})
        for line, (rival, ours) in zip(records, times, strict=True)
    ]
    table, name = tmp_path / "table.json", records[0].device
    gemm.merge(gemm.choices_of(decided), decided, table)
    rows, qkv, gated = read_choices(table), records[0].case, records[2].case
    assert [(row.product, row.least, row.tokens) for row in rows] == [(Product.GATED, 1, 2), (Product.PLAIN, 3, 5)]
    assert all(type(value) is int for value in vars(rows[0].config).values()) and rows[0].config.prefetch == 4

    def picked(product: Product, case: dict, tokens: int) -> bool:
        return pick(rows, (name, product, case["weight"], case["out"], case["inner"]), tokens) is not None

    assert [picked(Product.PLAIN, qkv, n) for n in (1, 2, 3, 5, 6)] == [False, False, True, True, False]
    assert [picked(Product.GATED, gated, n) for n in (1, 2, 3, 5)] == [True, True, False, False]
    lost = [replace(line, figures={**line.figures, "ours_us": None}) for line in decided[:2]]
    gemm.merge(gemm.choices_of(decided[:2] + lost), lost, table)  # timed again, and lost: its old rows go
    assert [row.product for row in read_choices(table)] == [Product.GATED]


@pytest.mark.parametrize("name", ["qkv", "o", "gate_up", "down", "head"])
def test_both_sides_do_the_same(device, name):
    """Each product with what is folded into it, in every configuration, and weights of 8 bits in the first."""
    linear = next(linear for linear in gemm.linears(SHAPES["tiny"], 1) if linear.name == name)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    race = gemm.Race(linear, 3, device, dtype, codes=False)
    configs = [c for c in gemm.candidates(linear, 3, dtype) if c.block_in <= 128]
    assert len(configs) > 1 and len(race.our_seconds(configs)) == len(configs)
    race = gemm.Race(linear, 3, device, torch.int8, codes=True)
    assert race.best() is not None and race.weight.dtype is torch.int8


def test_a_wrong_result_is_never_chosen(device, capsys):
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    race = gemm.Race(gemm.linears(SHAPES["tiny"], 1)[1], 3, device, dtype, codes=False)
    race.want[1, 7] = torch.nan
    assert race.best() is None and "wrong" in capsys.readouterr().out
