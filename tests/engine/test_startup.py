"""What a start does not do: import what it does not need, look at every token, touch memory that nothing uses."""

import subprocess
import sys
import time

import pytest
import torch

from engine.command.arguments import parse
from engine.text.vocabulary import _SPACES
from engine.timeline import Timeline, peak_bytes
from kernels.thinking_tables import traits_of

HEAVY = ("torch", "numpy", "triton", "transformers", "tokenizers", "huggingface_hub", "matplotlib")


def imported(program: str) -> list[str]:
    """Which of the HEAVY modules a program has imported at its end."""
    told = f"{program}\nimport sys; print(*(name for name in {HEAVY} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()


def called(*commands: tuple[str, ...]) -> str:
    """A program that runs command after command, each a module and its arguments, and goes on when they end."""
    return f"""
import runpy, sys
for module, *words in {commands}:
    sys.argv = [module, *words]
    try: runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end: print(end.code)
"""


def test_help_and_bad_input_import_nothing_heavy():
    wrong = [("--help",), ("--no-such-flag",), ("--prompt", "x", "--page-size", "0"), ("--input", "/no/such/file")]
    commands = [("engine.generate", *words) for words in wrong]
    assert imported(called(*commands, ("engine.doctor", "--help"), ("bench.evaluate", "--help"))) == []


def test_the_package_brings_its_light_names_alone():
    assert imported("from engine import EngineConfig, InputError, SamplingParams, TokenKind") == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="with a GPU, Triton is what runs")
def test_an_answer_on_a_cpu_takes_no_triton_and_no_hub():
    found = imported(called(("engine.generate", "--prompt", "x", "--max-tokens", "9")))
    assert "torch" in found and not {"triton", "huggingface_hub", "transformers"} & set(found)


def test_a_name_that_the_package_lacks():
    with pytest.raises(ImportError, match="Engines"):
        from engine import Engines  # noqa: F401


def test_maybe_blank_leaves_out_only_tokens_without_traits(qwen):
    maybe = set(qwen.maybe_blank())
    assert not [i for i in range(qwen.size) if i not in maybe and traits_of(qwen.token_bytes(i))]
    assert len(maybe) < qwen.size / 20


def test_no_character_beyond_the_known_ones_is_white_space():
    assert [c for c in map(chr, range(sys.maxunicode + 1)) if c.isspace()] == list(_SPACES)


def test_a_timeline_adds_up():
    timeline = Timeline.of_process()
    timeline.lap("before")
    timeline.lap("read", 2 * 10**9, at=time.perf_counter() + 1)
    first, second = timeline.laps
    assert 0 < first.seconds < 3600 and 1 <= second.seconds < 60
    title, *lines = timeline.lines()
    assert title.split() == ["start-up", "s", "at", "s", "peak", "MB"] and lines[1].split()[4:6] == ["2,000.0", "MB"]
    assert 2**20 < first.peak_bytes <= second.peak_bytes <= peak_bytes()


def test_the_flag_is_there_and_off():
    assert not parse(["--prompt", "x"]).timeline and parse(["--prompt", "x", "--timeline"]).timeline
