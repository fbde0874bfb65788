"""The plans of a GPU day: what they ask of a machine, what they should take, and what they hand on."""

import json
import subprocess
import sys
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from bench import decode, gpu_day, train
from bench.gpu import cost, kit
from bench.gpu.files import CACHE, FILES, GEMM_TABLE
from bench.gpu.plan import CELLS, PLANS
from bench.peers.worker import Worker
from bench.record import ROOT
from bench.shapes import SHAPES
from engine.errors import InputError
from kernels.limits import H100, H200, Limits
from train.architecture import Architecture
from train.config import load_config
from train.plan import plan_memory, plan_steps

CARDS = {"H100": H100, "H200": H200}
CALL, LEASE = 9.0 * 60, 27 * 60
"""Seconds: one call of `bench.gpu_day`, and what half an hour leaves after three starts of a minute."""

BLOCKED = '''
import importlib, json, sys
from contextlib import suppress
from importlib import metadata
from packaging.requirements import Requirement

bare, carried, modules = json.loads(sys.argv[1])
owners = metadata.packages_distributions()

def requirements(name):
    given = {"extra": "", "python_version": "3.12"}
    all_of = map(Requirement, metadata.requires(name) or [])
    return [one for one in all_of if one.marker is None or one.marker.evaluate(given)]

def closure(names):
    found, left = set(), list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        if name not in found:
            found.add(name)
            with suppress(metadata.PackageNotFoundError):
                left += [one.name for one in requirements(name)]
    return found

there = closure(owner for name in bare for owner in owners.get(name, ()))
there |= {name.lower() for name in carried}
for name in carried:
    needs = {one.name.lower().replace("_", "-") for one in requirements(name)}
    assert needs <= there, f"{name} needs {needs - there}, which is neither carried nor there"
lacking = {
    module for module, names in owners.items() if there.isdisjoint(one.lower().replace("_", "-") for one in names)
}
lacking -= {"engine", "kernels", "train", "curate", "bench", "models"}
assert {"openai", "polars", "mypy"} <= lacking

class Blocked:
    """A finder that does not see what the machine lacks."""

    def __init__(self, finder):
        self._finder = finder

    def __getattr__(self, name):
        return getattr(self._finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in lacking else self._finder.find_spec(name, path, target)

sys.meta_path[:] = map(Blocked, sys.meta_path)
for module in modules:
    importlib.import_module(module)
'''


def test_no_part_imports_what_the_machine_lacks():
    """With the wheels of the kit, and without anything else that is installed here."""
    modules = {part.module for plan in PLANS.values() for part in plan}
    modules |= {
        "bench.gpu_day",
        "bench.report",
        "bench.gpu.cost",
        "bench.peers.engine_worker",
        "engine.generate",
        "bench.peers.transformers_worker",
        "train.sft",
    }
    asked = json.dumps([sorted(kit.BARE), kit.CARRIED, sorted(modules)])
    done = subprocess.run([sys.executable, "-c", BLOCKED, asked], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-600:]


@pytest.mark.parametrize("card", CARDS)
def test_every_part_should_end_within_its_limit(card):
    """By the simulated clock; the arguments go through each module's own parser on the way."""
    takes = {part.name: cost.seconds(part, CARDS[card]) for part in PLANS[card]}
    for part in PLANS[card]:
        assert 2 < takes[part.name] < part.limit, part.name
        assert part.limit < CALL, "it would have to end with the call that it runs in"
    assert sum(takes.values()) < LEASE


@pytest.mark.parametrize("card", CARDS)
def test_what_is_worth_most_comes_first(card):
    names = [part.name for part in PLANS[card]]
    assert names[:4] == ["ceilings", "compile", "tokens", "decode"] and "host" not in names
    cells = CELLS[card]
    assert [cell.split("x")[0] for cell in cells.bf16[:4]] == ["1", "8", "64", "32"]
    assert names.index("gemm") < names.index("decode_tuned") and names.index("peers") > names.index("client_loop")


@pytest.mark.parametrize("card", CARDS)
def test_every_cell_fits_beside_the_weights(card):
    for part in PLANS[card]:
        if part.module != "bench.decode":
            continue
        options = cost.options_of(part)
        limits = decode.limits_of(options, SHAPES[options.shape], CARDS[card])[0]
        for case in options.cases:
            assert limits.resident_sequences(case.most_tokens(options.tokens)) >= case.batch, (part.name, case)


def test_a_cell_that_does_not_fit_is_not_counted_as_done():
    part = next(part for part in PLANS["H200"] if part.name == "decode")
    with pytest.raises(ValueError, match=r"does not fit beside qwen2\.5-32b on H100"):
        cost.seconds(part, H100)


def test_a_cell_is_prefilled_once_in_the_count(monkeypatch):
    """And where it is prefilled in every round, the plan is not one that can be kept."""
    part = next(part for part in PLANS["H200"] if part.name == "decode")
    once = cost.seconds(part, H200)
    forgets = property(lambda self: set(), lambda self, _: None)
    monkeypatch.setattr(cost.SimulatedWorker, "_seen", forgets, raising=False)
    assert cost.seconds(part, H200) > part.limit > once


def test_the_tuner_hands_its_table_on():
    parts = {part.name: part for part in PLANS["H100"]}
    table = parts["gemm"].arguments[parts["gemm"].arguments.index("--table") + 1]
    assert parts["decode_tuned"].environment["S1_GEMM_TABLE"] == table == "{out}/" + GEMM_TABLE
    assert GEMM_TABLE in FILES, "it does not come back"


def test_peers_run_the_32b_shape_where_it_fits():
    shapes = {card: cost.options_of(next(part for part in PLANS[card] if part.name == "peers")).shape for card in CARDS}
    assert shapes == {"H100": "qwen2.5-7b", "H200": "qwen2.5-32b"}
    assert set(PLANS) == set(CARDS)


@pytest.mark.parametrize("card", CARDS)
def test_training_leaves_a_tenth_of_the_card(card, tmp_path):
    """By the trainer's own plan, for the samples that the part makes."""
    parts = [part for part in PLANS[card] if part.module == "bench.train"]
    assert len(parts) == 3
    for part in parts:
        folder = tmp_path / part.name
        folder.mkdir()
        options = cost.options_of(part)
        config = load_config(train.write_run(options, folder), options.settings)
        lengths = np.array([len(json.loads(line)["tokens"]) for line in (folder / "data.jsonl").open()])
        tokens = plan_steps(config, lengths, 1).largest_slice
        plan = plan_memory(config, Architecture.load(folder / "config.json"), 1, tokens)
        assert plan.total * 1e9 < 0.9 * CARDS[card].memory, part.name


def test_the_simulated_worker_counts_by_hand():
    limits = Limits(SHAPES["qwen2.5-32b"], H100)
    worker = cost.SimulatedWorker("engine", limits)
    case = decode.Case(2, 512)
    ids = decode.prompts(case, 1000, [])
    lane = decode.Lane(cast(Worker, worker), "engine")
    decode.measure(case, [lane], ids, 10, 3)
    prefill = 2 * limits.prefill_seconds(512) / cost.PREFILL
    step = limits.step_seconds(2, 512) / cost.DECODE
    assert worker.seconds == pytest.approx(prefill + step * (decode.SHORT + 1 + 3 * 11))


@pytest.mark.parametrize("card", CARDS)
def test_the_document_has_the_plan_as_it_is(card, capsys):
    assert gpu_day.main(gpu_day.Options(plan=card)) == 0  # type: ignore[arg-type]
    printed = capsys.readouterr().out
    assert all(f"| `{part.name}` |" in printed and part.brings for part in PLANS[card])
    begin = f"<!-- plan {card}: begin (python -m bench.gpu_day --plan {card}) -->\n"
    text = (ROOT / "docs" / "gpu_day.md").read_text().partition(begin)[2]
    assert text.startswith(printed), f"put what python -m bench.gpu_day --plan {card} prints into docs/gpu_day.md"


def test_the_kits_command_names_what_is_in_it(tmp_path):
    assert kit.command_there(tmp_path, "abc1234").endswith('-m bench.gpu_day --out "${OUT:-gpu-day}"')
    (tmp_path / "earlier").mkdir()
    (tmp_path / CACHE).mkdir()
    text = kit.command_there(tmp_path, "abc1234")
    assert f"--resume-from {tmp_path}/earlier --cache {tmp_path}/triton" in text and "S1_COMMIT=abc1234" in text
    assert "--no-index --no-deps" in text


def test_an_earlier_call_is_put_into_the_kit_that_is_there(tmp_path, capsys):
    """Without fetching the wheels again; a folder that has no results is refused."""
    (tmp_path / "kit" / "wheels").mkdir(parents=True)
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    with pytest.raises(InputError, match=r"has no results\.jsonl; give the folder"):
        kit.main(kit.Options(out=tmp_path / "kit", earlier=earlier))
    (earlier / FILES[0]).write_text("{}\n")
    kit.main(kit.Options(out=tmp_path / "kit", earlier=earlier))
    assert f"--resume-from {tmp_path / 'kit' / 'earlier'}" in capsys.readouterr().out
    assert (tmp_path / "kit" / "earlier" / FILES[0]).read_text() == "{}\n"
    assert not list((tmp_path / "kit" / "wheels").iterdir()), "fetched again"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_kit_downloads_wheels_for_that_machine(tmp_path, capsys):
    kit.main(kit.Options(out=tmp_path / "kit"))
    names = sorted(file.name for file in (tmp_path / "kit" / "wheels").iterdir())
    assert [name.split("-")[0] for name in names] == sorted(one.replace("-", "_") for one in kit.CARRIED)
    assert any(name.startswith("msgspec") and "cp312" in name and "x86_64" in name for name in names)
    assert "bench.gpu_day" in capsys.readouterr().out
    wrong = replace(kit.Options(out=tmp_path / "kit"), python_version="2.7")
    with pytest.raises(InputError, match=r"Python 2\.7"):
        kit.main(wrong)
