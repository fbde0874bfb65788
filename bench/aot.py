"""`python -m bench.aot`: registers, shared memory and tensor-core instructions of every Triton kernel, for sm_90.

No GPU is needed: this says what the machine code is, not how fast it runs (not yet measured on a GPU).
"""

import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console

from bench import record
from bench.command import Output, columns, command
from kernels import aot, language, production


@dataclass(frozen=True)
class Options(Output):
    """Where the table goes; one file per version of Triton."""

    output: Path | None = None
    """Default: `bench/results/aot_sm90_triton<version>.jsonl`, replaced."""


def main(options: Options) -> None:
    """Compile all, whatever a cache has, print, write one line per kernel."""
    output = options.output or record.RESULTS / f"aot_sm90_triton{language.triton.__version__}.jsonl"
    table = columns(
        *("kernel", "registers", "stack B", "shared B", "warps/SM", "HGMMA", "HMMA", "instructions", "compiled, s"),
        title=f"sm_90, Triton {language.triton.__version__}",
    )
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        kernels = [
            replace(one, compile_s=round(one.compile_s, 1))
            for one in map(aot.compile_case, production.production_cases())
        ]
    for one in kernels:
        table.add_row(
            one.name,
            *map(str, (one.registers, one.stack, one.shared, one.warps_per_sm)),
            *map(str, (one.instructions["HGMMA"], one.instructions["HMMA"], one.length, one.compile_s)),
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(
        "".join(
            json.dumps({"triton": language.triton.__version__, **asdict(one), "warps_per_sm": one.warps_per_sm}) + "\n"
            for one in kernels
        )
    )
    Console().print(table)


if __name__ == "__main__":
    command(Options, main)
