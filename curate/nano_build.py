"""Builds s1-nano from nothing: corpora, tokenizer, pretraining, fine-tuning.

    python -m curate.nano_build --seed 0 --out models/s1-nano

The seed sets the questions drawn, the tokenizer's corpus and the weights; never which questions are held out.
`<out>/build.json` holds what the card quotes: tokens, losses, wall and CPU minutes.
"""

import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer

from curate.families import problems
from curate.families.problem import segments
from curate.nano.corpus import S1, head, pretraining_records, sft_records, write_jsonl
from curate.nano.tokenizer import architecture, save_tokenizer, train_tokenizer
from engine.command.flags import read_flags
from engine.errors import InputError, tell

RECIPES = Path(__file__).parents[1] / "train" / "recipes"
VOCABULARY, CONTEXT = 768, 2048
SHAPE = (128, 4, 4, 384)
"""Hidden size, layers, heads, intermediate size."""


@dataclass(frozen=True)
class Arguments:
    """Where s1-nano is built, and of how much data."""

    out: Path
    """Directory of the finished checkpoint; weights and tokenizer files in it are replaced."""
    work: Path = Path("runs/s1-nano")
    """Directory of corpora and training runs."""
    seed: int = 2
    problems: int = 75000
    """Questions of the pretraining mix; about 160 tokens each."""
    sft: int = 1500
    """Questions of the SFT set."""


def tokenizer_texts(seed: int, count: int = 3000) -> Iterator[str]:
    """Text of whole conversations, special tokens left out, for the tokenizer."""
    for problem in islice(problems("train", seed), count):
        thinking = "".join(text for text, _ in segments(problem, len(problem.rounds) - 1, 1))
        text = head(problem.prompt) + f"think\n{thinking}{S1.budget_end} not found\nAnswer: {problem.answer}\n"
        yield text.replace("<|im_start|>", "").replace("<|im_end|>", "")


def write_base(folder: Path, seed: int, shape: tuple[int, int, int, int] = SHAPE) -> Tokenizer:
    """Tokenizer and config.json: everything of a checkpoint but the weights. Returns the tokenizer as it was saved."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tokenizer(train_tokenizer(tokenizer_texts(seed), VOCABULARY), folder, CONTEXT)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = architecture(tokenizer, *shape, VOCABULARY, CONTEXT)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return tokenizer


def train(recipe: str, run: Path, seed: int, *settings: str) -> dict[str, float]:
    """Runs `python -m train.sft` in its own process; returns the last step's loss, and tokens and steps in all."""
    subprocess.run(
        [sys.executable, "-m", "train.sft", str(RECIPES / recipe), f"run={run}", f"seed={seed}", *settings], check=True
    )
    steps = [line for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "loss" in line]
    tail = steps[-max(1, len(steps) // 10) :]
    return {"steps": steps[-1]["step"], "loss": round(sum(s["loss"] for s in tail) / len(tail), 4)}


def build(arguments: Arguments) -> dict[str, object]:
    """The whole build; returns what build.json holds."""
    started, work, seed = time.perf_counter(), arguments.work, arguments.seed
    shutil.rmtree(work, ignore_errors=True)
    tokenizer = write_base(work / "base", seed)
    write_jsonl(work / "pretrain.jsonl", pretraining_records(tokenizer, arguments.problems, seed))
    write_jsonl(work / "sft.jsonl", sft_records(arguments.sft, seed))
    prepared = time.perf_counter()
    pretraining = train(
        "s1_nano_pretrain.yaml",
        work / "pretrain",
        seed,
        f"model.init={work / 'base' / 'config.json'}",
        f"data.train=[{work / 'pretrain.jsonl'}]",
    )
    sft = train(
        "s1_nano_sft.yaml",
        work / "sft",
        seed,
        f"model.path={work / 'pretrain' / 'export'}",
        f"data.train=[{work / 'sft.jsonl'}]",
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in sorted((work / "sft" / "export").iterdir()):
        shutil.copyfile(path, arguments.out / path.name)
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    report = {
        "seed": seed,
        "problems": arguments.problems,
        "sft_records": arguments.sft,
        "pretraining": pretraining,
        "sft": sft,
        "corpora_minutes": round((prepared - started) / 60, 2),
        "wall_minutes": round((time.perf_counter() - started) / 60, 2),
        "cpu_minutes": round(sum(u.ru_utime + u.ru_stime for u in usage) / 60, 2),
    }
    (arguments.out / "build.json").write_text(json.dumps(report, indent=2) + "\n")
    return report


if __name__ == "__main__":
    try:
        print(json.dumps(build(read_flags(Arguments, None, "python -m curate.nano_build", __doc__)), indent=2))
    except InputError as error:
        tell(error)
        raise SystemExit(2) from None
