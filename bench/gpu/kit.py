"""`python -m bench.gpu.kit`: what a machine lacks that has a GPU, PyTorch and no network, and the command to run there.

The machine to plan for has Python 3.12, torch 2.11 with CUDA 13.0, Triton 3.6 and transformers; it is bare each time,
its commands run ten minutes at most, 64 MiB can be carried to it and eight files come back. The kit is a folder:
wheels, the files of an earlier call, and, where an interpreter with the machine's Python and Triton is named, Triton's
cache, filled on this machine.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from bench import record
from bench.command import check, command
from bench.gpu.files import CACHE, FILES, KEPT, RESULTS
from engine.commit import commit

CARRIED = ("tyro", "docstring-parser", "typeguard", "msgspec")
"""What such a machine does not have, and every command needs."""
BARE = frozenset(
    {
        "torch",
        "triton",
        "numpy",
        "yaml",
        "rich",
        "safetensors",
        "tokenizers",
        "jinja2",
        "markupsafe",
        "huggingface_hub",
        "transformers",
        "matplotlib",
        "pyarrow",
        "scipy",
        "pytest",
        "xdist",
        "execnet",
        "hypothesis",
        "typing_extensions",
    }
)
"""Packages that such a machine has, as far as anything here imports them by itself."""
_PLATFORMS = (
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)
_MOST_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to put together."""

    out: Path = Path(".gpu-kit")
    """The folder; it is made anew."""
    earlier: Path | None = None
    """Folder with the files of an earlier call, to go on from: they are put into the kit that is there."""
    python: str | None = None
    """An interpreter with the machine's Python, torch and Triton: it fills Triton's cache too, which takes minutes."""
    python_version: str = "3.12"
    """The machine's Python."""


def wheels(folder: Path, python_version: str) -> None:
    """Download what is carried, in the versions that pyproject.toml pins or that are installed here, for the machine's
    Python."""
    project = tomllib.loads((record.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = dict(line.split("==", 1) for line in project["dependencies"] if "==" in line)
    names = [f"{name}=={pinned.get(name) or metadata.version(name)}" for name in CARRIED]
    words = ("-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:")
    done = subprocess.run(
        [
            *(sys.executable, *words, "--implementation=cp", f"--python-version={python_version}"),
            *(*map("--platform={}".format, _PLATFORMS), "-d", str(folder), *names),
        ],
        capture_output=True,
        text=True,
    )
    check(
        done.returncode != 0
        and f"pip cannot fetch {', '.join(names)} for Python {python_version}: {done.stderr.strip()[-300:]}"
    )


def fill_cache(python: str, folder: Path) -> None:
    """Compile with `python`, at the path that the cache will have there (Triton keeps absolute paths), then copy it."""
    cache = KEPT / CACHE
    done = subprocess.run(
        [python, "-m", "bench.compile", "--no-gemm"],
        cwd=record.ROOT,
        env=os.environ | {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(record.ROOT)},
    )
    check(done.returncode != 0 and f"{python} could not compile; leave --python out, or give it what it lacks")
    shutil.copytree(cache, folder)


def command_there(kit: Path, commit: str) -> str:
    """What to run there, in a copy of the repository that has the kit in it."""
    return " ".join(
        [
            f"python3 -m pip install -qU --no-index --no-deps --no-compile --target /tmp/s1-site {kit}/wheels/*.whl &&",
            f"export PYTHONPATH=/tmp/s1-site S1_COMMIT={commit} &&",
            'python3 -m bench.gpu_day --out "${OUT:-gpu-day}"',
            *(
                f"{flag} {folder}"
                for flag, folder in (("--resume-from", kit / "earlier"), ("--cache", kit / CACHE))
                if folder.is_dir()
            ),
        ]
    )


def main(options: Options) -> None:
    """Make the folder, say how large it is, and print the command."""
    kit, earlier = options.out, options.earlier
    check(
        earlier is not None
        and not (earlier / RESULTS).is_file()
        and f"--earlier {earlier} has no {RESULTS}; give the folder that came back"
    )
    if earlier is None:
        shutil.rmtree(kit, ignore_errors=True)
    if not (kit / "wheels").is_dir():
        wheels(kit / "wheels", options.python_version)
    if earlier is not None:
        shutil.rmtree(kit / "earlier", ignore_errors=True)
        (kit / "earlier").mkdir(parents=True)
        for file in filter(Path.exists, map(earlier.joinpath, FILES)):
            shutil.copy2(file, kit / "earlier")
    if options.python is not None and not (kit / CACHE).is_dir():
        fill_cache(options.python, kit / CACHE)
    size = sum(file.stat().st_size for file in kit.rglob("*") if file.is_file())
    check(size > _MOST_BYTES and f"{kit} has {size / 2**20:.0f} MiB, and 64 can be carried; leave --python out")
    print(
        f"{kit}: {size / 2**20:.1f} MiB to carry; git ignores it, so that a copy has to name it. There, in the "
        "repository's folder, as often as there is time:\n",
        command_there(kit, commit() or "none"),
        sep="\n",
    )


if __name__ == "__main__":
    command(Options, main)
