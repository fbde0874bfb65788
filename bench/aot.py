"""`python -m bench.aot`: registers, shared memory and tensor-core instructions of every Triton kernel, for sm_90.

No GPU is needed: this says what the machine code is, not how fast it runs (not yet measured on a GPU).
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from bench import record
from kernels.aot import compile_case
from kernels.language import triton
from kernels.production import production_cases


@dataclass(frozen=True)
class Options:
    """Where the table goes; one file per version of Triton."""

    output: Path | None = None
    """Default: `bench/results/aot_sm90_triton<version>.jsonl`, replaced."""


def main(options: Options) -> None:
    """Compile all, whatever a cache has, print, write one line per kernel."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        _table(options)


def _table(options: Options) -> None:
    output = options.output or record.RESULTS / f"aot_sm90_triton{triton.__version__}.jsonl"
    table = Table(title=f"sm_90, Triton {triton.__version__}")
    columns = ("kernel", "registers", "stack B", "shared B", "warps/SM", "HGMMA", "HMMA", "instructions", "compiled, s")
    for column in columns:
        table.add_column(column, justify="left" if column == "kernel" else "right")
    lines = []
    for case in production_cases():
        found = compile_case(case)
        found = replace(found, compile_s=round(found.compile_s, 1))
        lines.append(json.dumps({"triton": triton.__version__, **asdict(found), "warps_per_sm": found.warps_per_sm}))
        counts = (found.instructions["HGMMA"], found.instructions["HMMA"])
        values = (
            found.registers,
            found.stack,
            found.shared,
            found.warps_per_sm,
            *counts,
            found.length,
            found.compile_s,
        )
        table.add_row(found.name, *map(str, values))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("\n".join(lines) + "\n")
    Console().print(table)


if __name__ == "__main__":
    main(tyro.cli(Options, prog="python -m bench.aot", description=__doc__))
