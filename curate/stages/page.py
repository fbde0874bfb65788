"""The report: one HTML file that opens from disk, with every count beside the paper's; everything in it is escaped."""

import base64
import io
import json
from functools import partial
from pathlib import Path

from curate.pages import render
from curate.stages.findings import find
from curate.stages.stage import Context
from engine.whole_file import write_whole


def write_report(context: Context) -> Path:
    """Writes `report/report.html`, its plots, `counts.json` and `ledger.parquet` (every row and where it ended)."""
    # matplotlib is slow to import: only the report needs it
    from curate.stages.plots import domain_plot, length_plot
    from engine.figure_style import save

    found, folder = find(context), context.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    plots = {}
    if found.lengths is not None:
        plots["Trace lengths"] = save(partial(length_plot, found.lengths), folder / "trace_lengths")
    if found.domains is not None:
        plots["Domains"] = save(partial(domain_plot, found.domains), folder / "domains")
    write_whole(folder / "counts.json", json.dumps(found.counts, indent=1) + "\n")
    write_whole(
        folder / "report.html",
        render(
            Path(__file__).with_name("report.html.jinja"),
            found=found,
            plots={
                name: [base64.b64encode(file.read_bytes()).decode() for file in files[1:]]
                for name, files in plots.items()
            },
            title=context.config.report.title,
            seed=context.config.seed,
        ),
    )
    ledger = io.BytesIO()
    found.ledger.write_parquet(ledger, compression="zstd")
    write_whole(folder / "ledger.parquet", ledger.getvalue())
    return folder / "report.html"
