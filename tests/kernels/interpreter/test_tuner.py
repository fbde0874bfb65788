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
    # Whatever won here: let the kernel win at qkv with 5 tokens and gate_up with 2, and lose elsewhere. That it would
    # be faster beside products of ours does not count, as there are none.
    times = [(10.0, 9.9), (10.0, 5.0), (10.0, 5.0), (10.0, 20.0)]
    decided = [
        replace(line, figures={**line.figures, "rival_us": rival, "ours_us": 1.0, "alone_us": ours, "prefetch": 4.0})
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


@pytest.mark.parametrize(
    "o, gate_up, ours",  # times of the rival, ours beside ours, ours alone
    [
        ((10, 9, 9.9), (20, 15, 25), {"o", "gate_up"}),
        ((10, 14, 12), (20, 15, 25), {"o", "gate_up"}),  # together, though o alone and o folded are slower
        ((10, 30, 9), (20, 15, 25), {"o"}),
        ((10, 30, 12), (20, 15, 18), {"gate_up"}),
        ((10, 30, 12), (20, 15, 19.9), set()),  # closer than noise
        ((10, 30, 12), (20, 15, 25), set()),
    ],
)
def test_products_on_both_sides_of_a_norm_are_decided_together(o, gate_up, ours):
    machine = record.Machine(command="x", commit="abc1234", device="GPU", versions={})
    sizes = {"o": (64, 32), "gate_up": (96, 64)}
    lines = []
    for name, (rival, beside, alone) in (("o", o), ("gate_up", gate_up)):
        product = "gated" if name == "gate_up" else "plain"
        case = {"name": name, "product": product, "weight": "bfloat16", "shape": "tiny", "ranks": 1, "tokens": 8}
        case |= dict(zip(("out", "inner"), sizes[name], strict=True))
        figures = {"rival_us": rival, "ours_us": beside, "alone_us": alone}
        figures |= {"block_out": 64, "block_in": 64, "split_k": 1, "num_warps": 4, "num_stages": 3, "prefetch": 0}
        lines.append(machine.record("gemm", case, figures))
    found = gemm.choices_of(lines)
    assert {name for name, size in sizes.items() if size in {(c.out_features, c.in_features) for c in found}} == ours


def test_rows_of_another_type_stay_in_the_table(records, tmp_path):
    table = tmp_path / "table.json"
    lines = [replace(line, figures={**line.figures, "rival_us": 9.0, "alone_us": 1.0}) for line in records]
    gemm.merge(gemm.choices_of(lines), lines, table)
    before = read_choices(table)
    coded = [replace(line, case={**line.case, "weight": "int8"}) for line in lines]
    gemm.merge(gemm.choices_of(coded), coded, table)
    assert len(before) == 4 and set(before) < set(read_choices(table)) and len(read_choices(table)) == 8


@pytest.mark.parametrize("shape", ["qwen2.5-0.5b", "qwen2.5-7b", "qwen2.5-32b"])
@pytest.mark.parametrize("weight", [torch.bfloat16, torch.int8])
def test_what_is_tried_can_be_launched(shape, weight):
    for linear in gemm.linears(SHAPES[shape], 1):
        for tokens in (1, 8, 32, 64):
            tried = list(gemm.candidates(linear, tokens, weight))
            assert len(tried) == len(set(tried)) > 3
            assert all(config.split_k >= 1 and config.num_stages >= 2 for config in tried)


@pytest.mark.parametrize("name", ["qkv", "o", "gate_up", "down", "head"])
def test_both_sides_do_the_same(device, name):
    """Each product with what is folded into it, in every configuration, and weights of 8 bits in the first."""
    linear = next(linear for linear in gemm.linears(SHAPES["tiny"], 1) if linear.name == name)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    race = gemm.Race(linear, 3, device, dtype, codes=False)
    configs = [c for c in gemm.candidates(linear, 3, dtype) if c.block_in <= 128]
    assert len(configs) > 1 and len(race.our_seconds(configs)) == len(configs)
    plain = linear.normed or not linear.adds  # else the norm behind them adds the residual
    want = race.want if plain else race.want - race.residual.float()
    for result in (race.rival(race.x), race.alone(race.x, configs[0])):
        assert (result.float() - want).abs().max() / want.abs().max() < 2e-2
    race = gemm.Race(linear, 3, device, torch.int8, codes=True)
    assert race.best() is not None and race.weight.dtype is torch.int8


def test_a_wrong_result_is_never_chosen(device, capsys):
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    race = gemm.Race(gemm.linears(SHAPES["tiny"], 1)[1], 3, device, dtype, codes=False)
    race.want[1, 7] = torch.nan
    assert race.best() is None and "wrong" in capsys.readouterr().out
