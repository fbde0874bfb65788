"""`python -m bench.search`: what a tree search costs beside samples of as many tokens, and what cached scores save.

A random model makes text without meaning, so steps have a fixed length and rewards mean nothing: what is measured is
the engine. `cost` is the engine's own clock over all questions at once, the reward's time apart; `scoring` the tokens
and seconds of a reward model that scores a tree's steps as they come, or each path anew; `pages` the page pool's peak
for a tree whose branches part late, and for samples of the same length; `widths` that every token is accounted for.
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from bench import record, stand_in
from bench.command import Loaded, check, columns, command
from engine import Engine, InputError, SamplingParams
from engine.rows_file import BadRow, read_rows
from engine.search.branch import Branch, grow
from engine.search.rebase import rebase
from engine.search.reward import ModelReward, Reward, mean_logprob
from engine.search.walk import Found, Steps, Walk


@dataclass(frozen=True, kw_only=True)
class Options(Loaded):
    """A batch of questions, each searched."""

    questions: int = 32
    context: int = 64
    """Tokens of each question."""
    width: int = 16
    depth: int = 8
    """Steps of a path."""
    step: int = 16
    """Tokens of a step."""
    widths: tuple[int, ...] = ()
    """Searches with a random reward model at these widths too."""
    path: int = 1024
    """Tokens of a path of which pages are counted."""
    prompts: Path | None = None
    """A JSONL file whose `question`s are searched with `widths`; without it, random tokens."""
    rounds: int = 3
    parts: tuple[Literal["cost", "pages", "widths", "scoring"], ...] = ("cost", "pages", "widths", "scoring")
    """What is measured."""

    def __post_init__(self) -> None:
        check(
            min(self.questions, self.context, self.width, self.depth, self.step, self.rounds) < 1
            and "questions, context, width, depth, step and rounds start at 1",
            min((self.path, *self.widths)) < 1 and "path and widths start at 1",
            not self.parts and "parts is empty; name what is measured",
            self.parts == ("widths",) and not self.widths and "parts is widths; say which with --widths",
        )


def reward_folder(folder: Path, cache: Path) -> Path:
    """In `cache`, a process reward model of a checkpoint's shape: configuration and tokenizer, for random weights."""
    target = cache / f"reward-{folder.name}"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (folder / name).exists():
            (target / name).write_bytes((folder / name).read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen2ForProcessRewardModel"]}))
    return target


def main(options: Options) -> None:
    """Run all; print a table, and append records to `output`."""
    torch.set_num_threads(options.threads)
    machine = record.Machine.read(torch.device(options.device))
    table = columns("what", "", "tokens", "s", "pages", "ratio", title=f"{options.name}: width {options.width}")
    case = {
        "model": options.name,
        "questions": options.questions,
        "width": options.width,
        "depth": options.depth,
        "step": options.step,
    }
    length = stand_in.tokens(options.context + options.depth * options.step + 64)
    most = options.questions * max((options.width, *options.widths))
    engine_of = partial(
        Engine,
        device=str(stand_in.device(options.device)),
        max_num_seqs=most,
        kv_cache_tokens=most * length,
        thinking_format="none",
    )
    policy = partial(engine_of, options.folder, load_format="dummy" if options.dummy else "auto")
    judge = partial(engine_of, reward_folder(options.folder, options.cache), load_format="dummy")
    with policy() as engine:
        measures: dict[str, Callable[[], dict[str, float]]] = {
            "cost": lambda: cost(engine, options),
            "pages": lambda: pages(policy, options),
        }
        for name in [part for part in options.parts if part in measures]:
            figures = measures[name]()
            machine.write(options.output, f"search_{name}", case | {"path": options.path}, figures)
            for kind in ("tree", "samples"):
                told = (figures.get(f"{kind}_{what}") for what in ("tokens", "s", "pages"))
                table.add_row(name, kind, *("" if value is None else f"{value:,.4g}" for value in told), "")
            table.add_row("", "tree / samples", "", "", "", f"{figures['ratio']:.3f}", end_section=True)
        if options.widths and "widths" in options.parts:
            with judge() as reward:
                for width in options.widths:
                    figures = accounted(engine, reward, options, width)
                    machine.write(options.output, "search_widths", case | {"width": width}, figures)
                    table.add_row(
                        f"width {width}", "drawn", f"{figures['generated']:,.0f}", f"{figures['s']:.3g}", "", ""
                    )
                    table.add_row("", "scored", f"{figures['scored']:,.0f}", "", "", "", end_section=True)
    if "scoring" in options.parts:
        figures = scoring(judge, options)
        machine.write(options.output, "search_scoring", case | {"depth": SCORED}, figures)
        for kind in ("full", "incremental"):
            table.add_row("scoring", kind, f"{figures[f'{kind}_tokens']:,.0f}", f"{figures[f'{kind}_s']:.3g}", "", "")
        table.add_row("", "full / incremental", f"{figures['ratio']:.1f}", f"{figures['time_ratio']:.1f}", "", "")
    Console().print(table)


def _prompts(engine: Engine, options: Options) -> list[list[int]]:
    chance = random.Random(0)
    return [
        [chance.randrange(engine.tokenizer.size - 3) for _ in range(options.context)] for _ in range(options.questions)
    ]


def _params(options: Options, seed: int) -> SamplingParams:
    return SamplingParams(temperature=1.0, seed=seed, ignore_eos=True, max_tokens=options.depth * options.step)


def _search(
    engine: Engine, options: Options, prompt: Sequence[int], reward: Reward, width: int, seed: int = 0
) -> Found:
    steps = Steps(stop=(), max_tokens=options.step, most=options.depth)
    return rebase(Walk(Branch(engine, prompt, _params(options, seed)), steps, reward), width, 0.2)


def cost(engine: Engine, options: Options) -> dict[str, float]:
    """Seconds of the engine's clock for a search of every question at once, and for samples of as many tokens."""
    prompts = _prompts(engine, options)
    engine.generate(prompts, SamplingParams(max_tokens=4))  # both find the questions computed
    rounds = list[tuple[float, float, float]]()
    generated = 0
    for turn in range(options.rounds):
        with engine.clocked() as times, ThreadPoolExecutor(options.questions) as pool:
            search = partial(_search, engine, options, reward=mean_logprob, width=options.width, seed=turn)
            generated = sum(found.ledger.generated for found in pool.map(search, prompts))
        tree = sum(one.seconds for one in times)
        with engine.clocked() as times:
            # With log-probabilities, as a branch has them: they are the reward's.
            outputs = engine.generate(prompts, replace(_params(options, turn), n=options.width, logprobs=0))
        tokens = sum(len(sample.token_ids) for output in outputs for sample in output.outputs)
        samples = sum(one.seconds for one in times) * generated / tokens
        rounds.append((tree / samples, tree, samples))
    ratio, tree, samples = sorted(rounds)[len(rounds) // 2]
    return {
        "tree_tokens": float(generated),
        "samples_tokens": float(generated),
        "tree_s": tree,
        "samples_s": samples,
        "ratio": ratio,
    }


TREE = ((16, 10), (4, 4), (4, 2))
"""Branches of each, and sixteenths of the path until the next part: 256 leaves, which part late."""
SAMPLES = 64
SCORED = 20
"""Steps of the paths that are scored."""


def pages(policy: Callable[..., Engine], options: Options) -> dict[str, float]:
    """Peak of the pages that hold anything, of 16 tokens each: of a tree of 256 leaves, and of 64 samples as long."""
    length = options.context + options.path + 64
    figures: dict[str, float] = {}
    for kind in ("tree", "samples"):
        with policy(page_size=16, max_num_seqs=256, kv_cache_tokens=SAMPLES * 2 * length) as engine:
            prompt = _prompts(engine, options)[0]
            params = replace(_params(options, 1), max_tokens=options.path)
            branches = [Branch(engine, prompt, params)]
            for spread, part in TREE if kind == "tree" else ((SAMPLES, 16),):
                branches = [child for branch in branches for child in branch.spread(spread)]
                grow(branches, max_tokens=options.path * part // 16)
            engine.check()
            figures |= {
                f"{kind}_tokens": float(branches[0].ledger.generated),
                f"{kind}_pages": float(engine.stats()["pages_used"]),
            }
    return figures | {"ratio": figures["tree_pages"] / figures["samples_pages"]}


def scoring(judge: Callable[..., Engine], options: Options) -> dict[str, float]:
    """Tokens that a reward model computes, and seconds, for paths that grow step by step: the new steps, or all."""
    figures: dict[str, float] = {}
    for kind in ("full", "incremental"):
        with judge(enable_prefix_caching=kind == "incremental") as engine:
            chance = random.Random(1)
            ids = range(engine.tokenizer.size - 3)
            prompt = chance.choices(ids, k=options.context)
            paths = [[chance.choices(ids, k=options.step) for _ in range(SCORED)] for _ in range(options.width)]
            engine.score(chance.choices(ids, k=9), [[1]])
            started, computed = time.perf_counter(), 0
            for depth in range(1, SCORED + 1):
                if kind == "full":
                    engine.forget_scores()
                asked = [engine.submit_score(prompt, steps[:depth]) for steps in paths]
                computed += sum(scores.result().computed for scores in asked)
            figures |= {f"{kind}_tokens": float(computed), f"{kind}_s": time.perf_counter() - started}
    return figures | {
        "ratio": figures["full_tokens"] / figures["incremental_tokens"],
        "time_ratio": figures["full_s"] / figures["incremental_s"],
    }


def accounted(engine: Engine, reward: Engine, options: Options, width: int) -> dict[str, float]:
    """A search of every question with the reward model. Raises InputError unless both engines counted its tokens."""
    prompts = _prompts(engine, options)
    if options.prompts is not None:
        rows = [row for _, row in read_rows(options.prompts) if not isinstance(row, BadRow) and "question" in row]
        texts = [str(row["question"]) for row in rows[: options.questions]]
        prompts = [list(engine.prepare(text).prompt) for text in texts]
    before, judged = engine.stats(), reward.stats()
    started, judge = time.perf_counter(), ModelReward(reward)
    with ThreadPoolExecutor(len(prompts)) as pool:
        found = list(pool.map(partial(_search, engine, options, reward=judge, width=width), prompts))
    seconds = time.perf_counter() - started
    after, later = engine.stats(), reward.stats()
    generated = sum(one.ledger.generated for one in found)
    scored = sum(one.ledger.scored for one in found)
    steps = sum(len(one.nodes) for one in found)
    drawn = after["decode_tokens"] - before["decode_tokens"] + steps
    computed = later["prefill_tokens"] - judged["prefill_tokens"]
    if (drawn, computed) != (generated, scored) or any(len(one.leaves) != width for one in found):
        raise InputError(
            f"width {width}: {generated} drawn and {scored} scored, the engines counted {drawn}, {computed}"
        )
    return {"generated": float(generated), "scored": float(scored), "steps": float(steps), "s": seconds}


if __name__ == "__main__":
    command(Options, main)
