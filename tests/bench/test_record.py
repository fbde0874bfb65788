"""Result lines: written whole, read back, refused where torn; and the table made from them."""

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from bench import prediction, report
from bench.record import ROOT, Machine, Record, append, read
from bench.report import GAP, GAP_GPU, ROWS, cell, insert, newest, speed_records, table
from kernels.limits import H200

MACHINE = Machine(command="python -m bench.x", commit="abc1234", device="Some CPU, 2 cores", versions={"torch": "2"})
CASE = {"model": "40m", "engine": "s1-engine", "dtype": "bfloat16", "batch": 1, "context": 128, "budget": None}
FIGURES = {
    "step_ms": 2.123456,
    "tok_s_user": 471.0,
    "tok_s_total": 471.0,
    "GBps": 38.0,
    "bandwidth_share": 0.987,
    "limit_ms": 2.1,
}


def test_a_record_survives_the_file(tmp_path):
    file = tmp_path / "a" / "x.jsonl"
    line = MACHINE.record("decode", CASE, FIGURES | {"nothing": None})
    append(file, line)
    append(file, line)
    assert read(file) == [line, line]
    assert line.figures["step_ms"] == 2.123 and line.figures["nothing"] is None
    assert line.threads == torch.get_num_threads() and line.date.endswith("Z")


def test_a_torn_line_is_named(tmp_path):
    file = tmp_path / "x.jsonl"
    append(file, MACHINE.record("decode", CASE, FIGURES))
    with file.open("a") as out:
        out.write('{"benchmark": "dec')
    with pytest.raises(ValueError, match=r"x\.jsonl:2: .*delete the line"):
        read(file)
    file.write_text('{"benchmark": "decode"}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl:1: a result line lacks"):
        read(file)


def test_the_machine_tells_versions_and_hides_paths(monkeypatch):
    monkeypatch.setattr("sys.argv", ["x", "--output", "/some/where/file.jsonl", "--model", "one=/some/where/a b"])
    machine = Machine.read(torch.device("cpu"), {"peer": "1.0"})
    assert machine.command.endswith("--output file.jsonl --model one=a b") and machine.versions["peer"] == "1.0"
    assert torch.__version__.startswith(machine.versions["torch"])


def test_rows_without_a_record_say_so():
    rendered = table([])
    for card in ("H100", "H200"):  # a card that has answered nothing has one row, which counts what is missing
        count = sum(row.card == card for row in ROWS)
        assert count > 15 and f"| {card} | decode, prefill, forcing, training, peers: {count} figures" in rendered
    assert rendered.count(GAP_GPU) == 2 and rendered.count(f"| {GAP} |") == sum(row.card is None for row in ROWS)


def gpu_line(card: str, **different: Any) -> Record:
    line = MACHINE.record("decode", CASE | {"model": "qwen2.5-32b", "context": 1024}, FIGURES)
    return replace(line, device=f"NVIDIA {card} 80GB HBM3", versions={"torch": "2", "cuda": "13.0"}, **different)


def test_each_card_has_rows_of_its_own():
    line = gpu_line("H100")
    assert [row.card for row in ROWS if row.answers(line)] == ["H100"]
    rendered = table([line])
    first = next(text for text in rendered.splitlines() if text.startswith("| H100, 32B bf16 | decode, batch 1, "))
    assert "**2.12 ms** per step" in first and first.endswith("| NVIDIA H100 80GB HBM3, 1 threads, `abc1234` |")
    rest = sum(row.card == "H100" for row in ROWS) - 1
    assert rendered.count(GAP_GPU) == rest + 1  # the H100's other rows by name, the H200's as one


def test_a_card_of_another_form_fills_no_row():
    for name in ("NVIDIA GH200 480GB", "NVIDIA H100 PCIe", "NVIDIA H100 NVL"):
        line = replace(gpu_line("H100"), device=name)
        assert not any(row.answers(line) for row in ROWS), name
        assert dots(report.drawn([line])) == []


def dots(figure: Figure) -> list[tuple[float, float]]:
    """What is drawn as a dot, in either plot."""
    return [
        (float(x), float(y))
        for axes in figure.axes
        for line in axes.lines
        if line.get_marker() == "o"
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    ]


def test_a_stand_in_fills_no_row_of_a_gpu():
    line = gpu_line("H100", command="python -m bench.decode")
    device, versions = "stand-in for H100: Some CPU, 2 cores", {"torch": "2", "stand_in": "H100"}
    stand_in = replace(line, device=device, versions=versions)
    assert not any(row.answers(stand_in) for row in ROWS)
    rendered = table([stand_in], "H100")
    assert rendered.startswith("A rehearsal: no figure here is of an H100.") and f"| {device}" in rendered
    assert "H200" not in rendered and not any(row.answers(line, "H100") for row in ROWS)


def test_a_cell_that_did_not_fit_says_so(tmp_path):
    line = gpu_line("H200", figures={"step_ms": None, "copy_GBps": 4000.0, "read_GBps": 4000.0})
    assert "does not fit in memory" in table([line])
    report.roofline([line], tmp_path / "r.png")


def test_products_of_another_table_are_a_row_of_their_own():
    line = gpu_line("H100")
    tuned = replace(line, case=dict(line.case) | {"products": "gemm_choices.json"})
    assert [row.what for row in ROWS if row.answers(tuned)] == [
        "decode, batch 1, context 1,024, products as measured on this card"
    ]


@pytest.mark.parametrize("products, way", [(None, "plain"), ("folded", "folded"), ("dependent", "dependent")])
def test_a_figure_of_a_gpu_stands_beside_its_prediction(products, way):
    line = gpu_line("H200")
    line = replace(line, case=dict(line.case) | ({"products": products} if products else {}))
    row = next(row for row in ROWS if row.answers(line))
    seconds = prediction.predict(H200, 1, 1024, way).seconds
    assert str(cell(row, line)).endswith(f"; predicted {seconds * 1e3:.3g} ms")
    tuned = replace(line, case=dict(line.case) | {"products": "gemm_choices.json"})
    assert "predicted" not in str(cell(next(row for row in ROWS if row.answers(tuned)), tuned))


def test_the_newest_record_answers():
    row = next(row for row in ROWS if row.on == "CPU, 40M bf16")
    old = replace(MACHINE.record("decode", CASE, FIGURES), date="2026-01-01T00:00:00Z")
    new = replace(old, date="2026-02-01T00:00:00Z", figures=FIGURES | {"step_ms": 2.0})
    assert newest(row, [new, old]) is new
    assert cell(row, new) == "**2 ms** per step, 471 tok/s, 38 GB/s, 99% of the bandwidth"
    assert newest(row, [replace(old, case=CASE | {"batch": 2})]) is None
    gpu = replace(old, device="NVIDIA H200", versions={"torch": "2", "cuda": "13.0"})
    assert newest(row, [gpu]) is None


def test_ratios_and_savings():
    peer = next(row for row in ROWS if row.what.endswith("against vllm"))
    line = MACHINE.record("decode", CASE | {"engine": "vllm"}, FIGURES | {"ratio": 1.5})
    assert cell(peer, line).startswith("**1.50x**")
    client = next(row for row in ROWS if row.benchmark == "budgets" and row.card is None)
    values = {"time_ratio": 1.25, "native_prefill_tokens": 100, "client_prefill_tokens": 400}
    assert cell(client, MACHINE.record("budgets", client.case, values)) == "**1.25x**, 75% less prefill"


def test_a_record_without_the_figure_answers_nothing():
    """A peer that ran alone has no ratio, and its own time is no answer to how much faster we are."""
    peer = next(row for row in ROWS if row.what.endswith("against vllm"))
    alone = MACHINE.record("decode", CASE | {"engine": "vllm"}, FIGURES)
    assert newest(peer, [alone]) is None
    good = MACHINE.record("decode", CASE, FIGURES)
    row = next(row for row in ROWS if row.answers(good))
    for lacking in ({"GBps": None}, {"bandwidth_share": None}):
        assert newest(row, [good, replace(good, date="2030-01-01T00:00:00Z", figures=FIGURES | lacking)]) is good
    assert "**" in table([good, alone])


def test_a_small_model_on_a_gpu_is_no_point_of_a_cpu():
    assert dots(report.drawn([gpu_line("H100", case=CASE | {"model": "qwen2.5-0.5b"})])) == []


def test_dots_are_the_newest_ones_of_one_device_under_a_line_over_all_batches():
    figures = FIGURES | {"read_GBps": 50.0}
    first = replace(MACHINE.record("decode", CASE | {"model": "qwen2.5-0.5b"}, figures), date="2026-01-01T00:00:00Z")
    newest = replace(first, date="2026-02-01T00:00:00Z", figures=figures | {"tok_s_total": 48.0, "read_GBps": 54.0})
    eight = replace(newest, case=dict(first.case) | {"batch": 8}, figures=figures | {"tok_s_total": 372.0})
    elsewhere = replace(first, device="Other CPU, 4 cores", case=dict(first.case) | {"batch": 4})
    int8 = replace(newest, case=dict(first.case) | {"batch": 2, "quantization": "int8"})
    twin = replace(newest, case=dict(first.case) | {"batch": 2, "engine": "s1-engine, unquantized"})
    figure = report.drawn([newest, eight, first, elsewhere, int8, twin])
    assert dots(figure) == [(1.0, 48.0), (8.0, 372.0)]
    cpu = figure.axes[1]
    (limit,) = (line for line in cpu.lines if line.get_marker() == "None")
    heights = dict(zip(map(int, limit.get_xdata()), limit.get_ydata(), strict=True))
    assert list(heights) == list(range(1, 17)) and round(heights[1]) == round(54e9 / 989.9e6)
    assert all(y < heights[int(x)] for x, y in dots(figure))
    assert list(cpu.get_xticks()) == [1, 2, 4, 8, 16] and not len(cpu.xaxis.get_minorticklocs())
    assert not any(line.get_visible() for line in cpu.get_xgridlines())
    assert list(figure.axes[0].get_xticks()) == [1, 2, 4, 8, 16, 32, 64]


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path):
    file = tmp_path / "x.jsonl"
    append(file, MACHINE.record("decode", CASE, FIGURES))
    with file.open("ab") as out:
        out.write(b"\xff\n")
    with pytest.raises(ValueError, match=r"x\.jsonl:2: .*delete the line"):
        read(file)


def test_insert_replaces_between_the_markers():
    (begin, end), (begin_short, end_short), (begin_model, end_model) = report.MARKERS.values()
    lines = [MACHINE.record("decode", CASE, FIGURES)]
    whole = f"# Title\n{begin}\nold\n{end}\nrest"
    once = insert(whole, lines)
    assert once == f"# Title\n{begin}\n{table(lines)}\n{end}\nrest" and insert(once, lines) == once
    short = insert(f"{begin_short}\n{end_short}\n", lines)
    assert short == f"{begin_short}\n{report.short_table(lines)}\n{end_short}\n"
    model = insert(f"{begin_model}\n{end_model}\n", lines)
    assert model == f"{begin_model}\n{prediction.table()}\n{end_model}\n"
    with pytest.raises(ValueError, match="lacks the markers"):
        insert("# Title", lines)


def test_the_short_table_has_six_rows_of_the_long_one():
    assert len(report.SHORT) == 6
    assert all(any((row.benchmark, row.case) == (r.benchmark, r.case) for r in ROWS) for row in report.SHORT)
    assert report.short_table([]).count(GAP_GPU) == 2


@pytest.mark.parametrize("name", ["README.md", "docs/performance.md"])
def test_tables_in_documents_are_those_of_the_records(name):
    lines = [line for file in sorted(report.RESULTS.rglob("*.jsonl")) for line in speed_records(file)]
    text = (ROOT / name).read_text(encoding="utf-8")
    assert insert(text, lines) == text, f"give `python -m bench.report --write {name}`"


def test_the_plot_is_a_png_with_and_without_figures(tmp_path):
    small = MACHINE.record("decode", CASE | {"model": "qwen2.5-0.5b"}, FIGURES)
    for lines in ([], [small]):
        report.roofline(lines, tmp_path / "r.png")
        assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"


def test_files_of_other_kinds_are_left_alone(tmp_path):
    (tmp_path / "x.jsonl").write_text(json.dumps({"condition": "budget 8"}) + "\n")
    assert speed_records(tmp_path / "x.jsonl") == []


def test_every_committed_result_is_readable():
    records = [line for file in report.RESULTS.rglob("*.jsonl") for line in speed_records(file)]
    assert {"decode", "startup", "search_cost", "evaluate"} <= {line.benchmark for line in records}
