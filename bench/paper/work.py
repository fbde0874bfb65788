"""What steps do: train the base, draw the pool, tune a model on a set, evaluate one."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.evaluation import grade, grid, run
from bench.evaluation.commands import write_report
from bench.paper import control
from bench.paper.corpus import records
from bench.paper.pool import chosen, pool, repeated
from bench.paper.steps import Place
from bench.processes import ends_with_its_parent
from curate.families import check
from curate.nano.corpus import write_jsonl
from curate.nano_build import RECIPES, write_base
from engine import Engine, SamplingParams
from engine.errors import EngineDead
from engine.text.tokenizer import Tokenizer
from engine.whole_file import write_whole
from train.architecture import Architecture
from train.config import load_config
from train.metrics import H100
from train.plan import ASSUMED_MFU, plan_steps, published_lengths
from train.sft import main as train

ENGINE: Mapping[str, Any] = {"device": "cpu", "dtype": "float32", "max_num_seqs": 64}
ANSWER_TOKENS = 48


def evaluate(
    folder: Path, model: Path, task: Mapping[str, Any], methods: Sequence[Mapping[str, Any]], most: int
) -> None:
    """A grid on one model, graded and reported; thinking is at most `most` tokens where a method names no budget."""
    asked = grid.from_values(
        {
            "model": str(model),
            "tasks": [{"name": "s1_nano", **task}],
            "methods": methods,
            "max_tokens": most + ANSWER_TOKENS,
            "answer_tokens": ANSWER_TOKENS,
            "thinking_format": "s1",
            "engine": {**ENGINE, "kv_cache_tokens": 131072},
        }
    )
    run.run(asked, folder)
    grade.grade(folder, workers=1)
    write_report(folder)


def _train(recipe: str, run_folder: Path, *settings: str) -> Path:
    """Runs the trainer, or goes on with a run that was stopped; returns the exported checkpoint."""
    export, finished = run_folder / "export", run_folder / "finished"
    if not finished.exists():
        code = train([str(RECIPES / recipe), f"run={run_folder}", "compute.loss_chunk=16384", *settings])
        if code != 0 or not (export / "config.json").exists():  # the code is 0 where it was told to stop, too
            raise EngineDead(f"training in {run_folder} was stopped, code {code}")
        finished.touch()
    shutil.rmtree(run_folder / "checkpoints", ignore_errors=True)
    return export


def make_base(place: Place, count: int, seed: int) -> Path:
    """The base without traces; returns its checkpoint."""
    start, corpus = place.folder / "start", place.folder / "corpus.jsonl"
    tokenizer = write_base(start, seed)
    if not (place.folder / "run" / "config.yaml").exists():  # written behind the corpus
        write_jsonl(corpus, records(tokenizer, count, seed))
    return _train(
        "s1_nano_pretrain.yaml",
        place.folder / "run",
        f"seed={seed}",
        f"model.init={start / 'config.json'}",
        f"data.train=[{corpus}]",
        "data.batch_size=16",
        "metrics.every=50",
    )


def base_of(place: Place) -> Path:
    """The base's checkpoint."""
    return place.of("base") / "run" / "export"


def draw_pool(count: int, seed: int, place: Place) -> None:
    """`pool.jsonl`: the rows, and whether the base has `solved` each, asked at once or with its thinking opened."""
    rows = pool(Tokenizer.load(base_of(place)), count, seed)
    asked = [{"messages": [{"role": "user", "content": row["question"]}]} for row in rows]
    ways = (
        SamplingParams(temperature=0.0, max_tokens=ANSWER_TOKENS, thinking_format="none"),
        SamplingParams(
            temperature=0.0, max_tokens=128 + ANSWER_TOKENS, thinking_token_budget=128, thinking_format="s1"
        ),
    )
    with Engine(base_of(place), **ENGINE) as engine:
        found = zip(*(engine.generate(asked, params) for params in ways), strict=True)
    for row, outputs in zip(rows, found, strict=True):
        said = [output.outputs[0].text.rpartition("answer\n")[2] for output in outputs]
        row["solved"] = any(check(row["family"], row["question"], answer) for answer in said)
    write_jsonl(place.folder / "pool.jsonl", rows)


def read_pool(place: Place) -> list[dict[str, Any]]:
    """The rows of `draw_pool`."""
    return [json.loads(line) for line in (place.of("pool") / "pool.jsonl").read_text().splitlines()]


def training_rows(place: Place, made: Mapping[str, Any], samples: int, seed: int) -> list[dict[str, Any]]:
    """What a model is tuned on: a set by its `mode` and `count`, in the form that `form` names, `samples` rows long."""
    rows = chosen(read_pool(place), made["mode"], made["count"], seed)
    tokenizer = Tokenizer.load(base_of(place))
    match made.get("form"):
        case "token" | "step" | "class" as kind:
            rows = control.controlled(rows, kind, tokenizer)
        case "strings":
            rows = control.several_strings(rows, seed)
        case "cut":
            rows = control.cut(rows, made["tokens"], tokenizer)
        case "short":
            rows = control.no_longer(rows, made["tokens"], tokenizer)
    return repeated(rows, samples, seed)


def tune(place: Place, made: Mapping[str, Any], samples: int, seed: int, recipe: Sequence[str]) -> Path:
    """A model tuned from the base; returns its checkpoint."""
    if not (place.folder / "run" / "config.yaml").exists():
        write_jsonl(place.folder / "train.jsonl", training_rows(place, made, samples, seed))
    return _train(
        "s1_nano_sft.yaml",
        place.folder / "run",
        f"seed={seed}",
        f"model.path={base_of(place)}",
        f"data.train=[{place.folder / 'train.jsonl'}]",
        *recipe,
    )


def with_yarn(model: Path, folder: Path, factor: int, trained: int) -> Path:
    """A copy of a checkpoint whose positions are stretched by YaRN from the `trained` tokens of its texts."""
    shutil.copytree(model, folder, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    scaling = {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": trained}
    write_whole(folder / "config.json", json.dumps(config | {"rope_scaling": scaling}, indent=2) + "\n")
    return folder


def curate(recipe: str, place: Place) -> None:
    """An offline recipe, with the teacher and the weak models of `offline_2k`: s1-nano, at several budgets."""
    recipes = Path("curate/recipes")
    large, small = (yaml.safe_load((recipes / f"{name}.yaml").read_text()) for name in (recipe, "offline_2k"))
    config = large | {name: small[name] for name in ("trace", "attempt")} | {"run": str(place.folder / "run")}
    config["grade"] = large["grade"] | {"workers": 1}
    file = place.folder / "curate.yaml"
    write_whole(file, yaml.safe_dump(config, sort_keys=False))
    subprocess.run([sys.executable, "-m", "curate.run", str(file)], check=True, preexec_fn=ends_with_its_parent)


def training_plan(place: Place) -> None:
    """`plan.json`: what `train.plan` makes of the published run, on as many H100s as the paper had."""
    recipes, ranks = Path("train/recipes"), 16
    config, arch = load_config(recipes / "s1_32b_16xh100.yaml"), Architecture.load(recipes / "qwen2.5_32b.json")
    lengths = published_lengths()
    steps = plan_steps(config, lengths, ranks)
    peak = H100.peak_flops
    assert peak is not None
    flops = arch.training_flops(lengths.tolist()) * steps.tokens / float(lengths.sum())
    told = {
        "gpus": ranks,
        "samples": len(lengths),
        "mean_tokens": float(lengths.mean()),
        "steps": steps.total,
        "flops": flops,
        "peak_flops": peak,
        "assumed_share_of_peak": ASSUMED_MFU,
        "minutes": flops / (ASSUMED_MFU * peak * ranks) / 60,
        "share_of_peak_in_26_minutes": flops / (peak * ranks) / (26 * 60),
    }
    write_whole(place.folder / "plan.json", json.dumps(told, indent=1) + "\n")
