"""The report: one HTML file that opens from disk, with every count beside the paper's; everything in it is escaped."""

from __future__ import annotations

import base64
import json
import os
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from curate.stages.findings import Findings, find
from curate.stages.stage import Context

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: .6rem 0 1.4rem; font-size: 14px; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
code, pre { font-size: 13px; white-space: pre-wrap; overflow-wrap: anywhere; }
img { max-width: 100%; }
"""


def table(head: list[str], rows: list[list[Any]]) -> str:
    """An HTML table; numbers are set right, None is left empty, all text escaped."""

    def cell(value: Any, tag: str) -> str:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        text = "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if number else value
        return f"<{tag}{' class=n' if number else ''}>{escape(str(text))}</{tag}>"

    numeric = [any(isinstance(row[i], (int, float)) for row in rows) for i in range(len(head))]
    top = "".join(f"<th{' class=n' if n else ''}>{escape(h)}</th>" for h, n in zip(head, numeric, strict=True))
    body = "".join(f"<tr>{''.join(cell(v, 'td') for v in row)}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def image(png: bytes, alt: str) -> str:
    """An HTML image with the picture inside it; `alt` is escaped."""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'


def page(found: Findings, plots: dict[str, bytes], title: str, seed: int) -> str:
    """The report as HTML."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>",
        f"<h1>{escape(title)}</h1><p>Seed {seed}. {len(found.stages)} stages, {found.seconds:,.0f} s in all.</p>",
        "<h2>Stages</h2>",
        table(["stage", "rows in", "rows kept", "the paper", "seconds"], found.stages),
        "<h2>Sources</h2>",
        table(["source", "the paper", *found.source_stages], found.sources),
        "<h2>Why rows were dropped</h2>",
    ]
    for stage, rule, count, examples in found.drops:
        parts.append(f"<h3>{escape(stage)}: {escape(rule)} ({count:,})</h3>")
        if examples:
            parts.append(table(["row", "question", "evidence"], [[f"{r}", q, e] for r, q, e in examples]))
    if found.rules:
        parts += ["<h2>Decontamination, both rules</h2>", table(["rule", "questions"], found.rules)]
    if found.seeded:
        parts += [
            "<h2>What was put in on purpose</h2>",
            "<p>The offline pool holds rows that a stage should find. Where they ended:</p>",
            table(["put in as", "rows", "ended at", "count"], found.seeded),
        ]
    if found.verdicts:
        parts += ["<h2>Grades</h2>", table(["graded", "model", "yes", "no", "ungradable"], found.verdicts)]
    if found.cost:
        parts += [
            "<h2>Cost</h2>",
            table(
                ["model", "calls", "errors", "tries", "prompt tokens", "reasoning tokens", "completion tokens"],
                found.cost,
            ),
        ]
    for heading, png in plots.items():
        parts += [f"<h2>{escape(heading)}</h2>", image(png, heading)]
    if found.notes:
        parts += ["<h2>More counts</h2>", table(["what", "value"], found.notes)]
    parts += [
        "<h2>Provenance</h2>",
        table(
            ["stage", "key", "configuration", "outputs"], [[s, k[:16], c[:16], o] for s, k, c, o in found.provenance]
        ),
        "</html>",
    ]
    return "\n".join(parts)


def write_report(context: Context) -> Path:
    """Writes `report/report.html`, its plots, `counts.json` and `ledger.parquet` (every row and where it ended)."""
    from curate.stages.plots import domain_plot, length_plot  # matplotlib is slow to import: only the report needs it

    found = find(context)
    folder = context.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    plots = {}
    if found.domains is not None:
        plots["Domains"] = domain_plot(found.domains)
    if found.lengths is not None:
        plots["Trace lengths"] = length_plot(found.lengths)
    for name, png in plots.items():
        _write(folder / f"{name.lower().replace(' ', '_')}.png", png)
    _write(folder / "counts.json", (json.dumps(found.counts, indent=1) + "\n").encode())
    path = folder / "report.html"
    _write(path, page(found, plots, context.config.report.title, context.config.seed).encode())
    _write_parquet(folder / "ledger.parquet", found.ledger)
    return path


def _write(path: Path, content: bytes) -> None:
    work = path.with_name(f".{path.name}.part")
    work.write_bytes(content)
    os.replace(work, path)


def _write_parquet(path: Path, rows: pl.DataFrame) -> None:
    work = path.with_name(f".{path.name}.part")
    rows.write_parquet(work, compression="zstd")
    os.replace(work, path)
