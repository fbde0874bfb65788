"""From the folders of the steps to `paper.json`: every number that the page has, and whether each claim holds."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import numpy as np
import torch

from bench.evaluation.estimators import majority_at_k
from bench.paper import control, measure, plan
from bench.paper.claims import claims
from bench.paper.measure import Estimate, Runs
from bench.paper.plan import CUT_TOKENS, GROUPS, POOL_SEED, QUESTION_SEED, SHORT_TOKENS, YARN, Scale
from bench.paper.steps import Steps
from bench.record import Machine
from engine.whole_file import write_whole

MSC = Path("curate/selection/msc.tsv")
SETS = ("paper", "random", "diverse", "longest", "full")


@dataclass(frozen=True)
class Found:
    """Where the steps left what."""

    out: Path
    scale: Scale

    def folders(self, name: str, part: str) -> list[Path]:
        """An evaluation of each seed's model."""
        return [self.out / f"{name}-{seed}" / part for seed in self.scale.seeds]

    def auto(self, name: str, group: str) -> Runs:
        """A tuned model's accuracy on a group, as Table 2 asks."""
        return measure.runs(self.folders(name, group), "auto")

    def everywhere(self, name: str) -> Runs:
        """The same on the questions of all groups."""
        return measure.together([self.auto(name, group) for group in GROUPS])


def part(out: Path, scale: Scale, name: str) -> str:
    """The numbers of one part, as JSON."""
    return _json(PARTS[name](Found(out, scale)))


def collect(out: Path, scale: Scale, steps: Steps, file: Path) -> None:
    """Write the results of all steps, which are done."""
    seconds = {step.name: steps.seconds(step) or 0.0 for step in steps.all}
    told: dict[str, Any] = {
        "about": {
            "machine": vars(Machine.read(torch.device("cpu"))),
            "scale": asdict(scale),
            "samples": scale.samples,
            "question_seed": QUESTION_SEED,
            "pool_seed": POOL_SEED,
            "groups": {name: list(families) for name, families in GROUPS.items()},
            "core_minutes": sum(seconds.values()) / 60,
            "steps": len(seconds),
            "minutes_of": {
                name: sum(seconds[step.name] for step in steps.only(stems).all) / 60
                for name, stems in plan.PARTS.items()
            },
        },
        **{name: told_by(Found(out, scale)) for name, told_by in PARTS.items()},
    }
    told["claims"] = [vars(claim) for claim in claims(told)]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, _json(told) + "\n")


def _json(told: Any) -> str:
    """Six digits behind the point."""
    rounded = json.loads(json.dumps(told), parse_float=lambda digits: round(float(digits), 6))
    return json.dumps(rounded, indent=1)


def base(found: Found) -> dict[str, Any]:
    """What the base does without traces, and what a thousand of them make of it."""
    folders = {group: [found.out / "base" / group] for group in GROUPS}
    asked = {
        "asked at once": "no opener",
        "thinking opened and closed for it": "auto",
    }
    of = {name: measure.together([measure.runs(folders[g], label) for g in GROUPS]) for name, label in asked.items()}
    tuned = found.everywhere("random")
    pool = [json.loads(line) for line in (found.out / "pool" / "pool.jsonl").read_text().splitlines()]
    return {
        "rows": [runs.row(name) for name, runs in of.items()] + [tuned.row("tuned on 1,000 random traces")],
        "moved": {name: asdict(tuned.over(runs)) for name, runs in of.items()},
        "pool": {
            "rows": len(pool),
            "right": mean(row["correct"] for row in pool),
            "solved": mean(row["solved"] for row in pool),
            "tokens": mean(row["trace_tokens"] for row in pool),
        },
    }


def figure1(found: Found) -> dict[str, Any]:
    """Accuracy against thinking tokens, s1-nano."""
    groups = {}
    for group in GROUPS:
        folder = found.out / "nano-groups" / group
        budgets, waits = measure.labels(folder, "budget"), measure.labels(folder, "extensions Wait")
        first, last = (measure.runs([folder], label) for label in (waits[0], "4x Wait"))
        groups[group] = {
            "budgets": measure.curve([folder], budgets),
            "waits": measure.curve([folder], waits),
            "all": measure.curve([folder], [*budgets, *waits]),
            "four_waits": asdict(last.over(first)),
        }
    return groups


def figure7(found: Found) -> dict[str, Any]:
    """One longer thought beside votes and searches, by the tokens that each draws in all."""
    folder = found.out / "nano-parallel" / "mixed"
    cells = measure.cells(folder)
    report = measure.read(folder / "report.json")["tasks"][0]["conditions"]
    named = {row["condition"]: row for row in report}
    alone = [label for label, cell in cells.items() if cell.condition.series in ("budget", "extensions Wait")]
    sequential = [
        measure.runs([folder], label).row(label, tokens=named[label]["cost"]["unique_tokens"]) for label in alone
    ]
    votes = [
        {
            "name": f"majority of {entry['k']}",
            "accuracy": {
                "value": entry["majority"],
                "low": entry["majority_interval"][0],
                "high": entry["majority_interval"][1],
            },
            "tokens": entry["unique_tokens"],
        }
        for label, row in named.items()
        if label.startswith("16 samples")
        for entry in row["at_k"]
    ]
    trees = [
        measure.runs([folder], label).row(label, tokens=named[label]["cost"]["unique_tokens"])
        for label, cell in cells.items()
        if cell.condition.series.startswith("rebase")
    ]
    best = measure.runs([folder], "4x Wait")
    widest = measure.runs([folder], next(row["name"] for row in reversed(trees)))
    votes_of_16 = voted(cells[next(label for label in cells if label.startswith("16 samples"))])
    return {
        "sequential": sequential,
        "majority": votes,
        "rebase": trees,
        "waits_over_majority": asdict(best.over(votes_of_16)),
        "rebase_over_majority": asdict(widest.over(votes_of_16)),
        "waits_over_rebase": asdict(best.over(widest)),
        "questions": len(next(iter(cells.values())).problems),
    }


def voted(cell: Any) -> Runs:
    """What all samples of each question vote, in expectation over ties."""
    right = [majority_at_k([o.graded.vote for o in s], [o.right for o in s], cell.size) for s in cell.samples]
    return Runs(np.array([right]), np.array([cell.thinking]))


def table2(found: Found) -> dict[str, Any]:
    """What a thousand is chosen by: accuracy in each group, and the difference to our own selection."""
    rows = []
    for name in SETS:
        groups = {group: found.auto(name, group) for group in GROUPS}
        row = {group: runs.row(name) for group, runs in groups.items()}
        for group, runs in groups.items():
            if name != "paper":
                row[group]["difference"] = asdict(runs.over(found.auto("paper", group)))
        whole = found.everywhere(name)
        more = {} if name == "paper" else {"difference": asdict(whole.over(found.everywhere("paper")))}
        rows.append(whole.row(name, groups=row, set=described(found, name), **more))
    return {"rows": rows}


def described(found: Found, name: str) -> dict[str, float]:
    """Samples, tokens of a trace, and share of right traces of a set, over the seeds."""
    pool = {row["question"]: row for row in _lines(found.out / "pool" / "pool.jsonl")}
    sets = [
        {row["question"]: row for row in _lines(found.out / f"{name}-{seed}" / "train.jsonl")}
        for seed in found.scale.seeds
    ]
    rows = [pool[question] for one in sets for question in one]
    return {
        "samples": len(rows) / len(sets),
        "tokens": mean(row["trace_tokens"] for row in rows),
        "right": mean(row["correct"] for row in rows),
        "families": len({row["family"] for row in rows}),
    }


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def sizes(found: Found) -> dict[str, Any]:
    """Sample efficiency: random sets of several sizes, as many steps."""
    names = {round(x * found.scale.thousand): "random" if x == 1 else f"size-{x:g}" for x in plan.SHARES}
    counts = list(names)
    rows = [found.everywhere(name).row(f"{count:,}", samples=count) for count, name in names.items()]
    steps = [
        {"from": a, "to": b, **asdict(found.everywhere(names[b]).over(found.everywhere(names[a])))}
        for a, b in pairwise(counts)
    ]
    return {"rows": rows, "steps": steps}


def table8(found: Found) -> dict[str, Any]:
    """Traces cut at a short training length."""
    whole, cut = found.everywhere("random"), found.everywhere("cut")
    shares = [
        mean(len(row["tokens"]) == CUT_TOKENS for row in _lines(path / "train.jsonl"))
        for path in found.folders("cut", ".")
    ]
    longer = Estimate(*(float(x) for x in _longer(cut, whole)))
    return {
        "rows": [whole.row("whole"), cut.row(f"cut at {CUT_TOKENS} tokens")],
        "cut": mean(shares),
        "difference": asdict(cut.over(whole)),
        "more_thinking": asdict(longer),
    }


def _longer(some: Runs, others: Runs) -> tuple[float, float, float]:
    found = measure.resampled(some.thinking, others.thinking)
    return found.value, found.low, found.high


def table3(found: Found) -> dict[str, Any]:
    """Every way to say how long a model shall think: Control, Scaling, Performance, and what the models obey."""
    plain = found.folders("random", "mixed")
    methods = {
        "budget forcing": (plain, [*measure.labels(plain[0], "budget"), *measure.labels(plain[0], "extensions Wait")]),
        "rejection": (plain, measure.labels(plain[0], "rejection")),
    }
    for kind, series in {
        "token": ("token-conditional", "token-conditional + budget"),
        "step": ("step-conditional", "step-conditional + stop at 0"),
        "class": ("class-conditional",),
    }.items():
        folders = found.folders(f"control-{kind}", "mixed")
        methods |= {name: (folders, measure.labels(folders[0], name)) for name in series}
    curves = {name: measure.curve(folders, labels) for name, (folders, labels) in methods.items()}
    low, high = (measure.runs(plain, label) for label in (methods["rejection"][1][0], methods["rejection"][1][-1]))
    short, long, none = (
        measure.runs(found.folders("control-class", "mixed"), label)
        for label in ("class-conditional short", "class-conditional long", "auto")
    )
    tokens = [float(runs.thinking.mean()) for runs in (short, long, none)]
    curves["class-conditional"]["control"] = mean((tokens[0] < tokens[2], tokens[1] > tokens[2]))
    return {
        "curves": curves,
        "obeyed": obeyed(found),
        "rejection_at_the_least": asdict(low.over(high)),
        "tries": [_tries(plain, label) for label in methods["rejection"][1]],
        "classes": [
            runs.row(name) for name, runs in (("asked for short", short), ("asked for long", long), ("not asked", none))
        ],
        "longer_when_asked": asdict(Estimate(*_longer(long, short))),
    }


def _tries(folders: Sequence[Path], label: str) -> dict[str, Any]:
    outcomes = [o for folder in folders for o in measure.cells(folder)[label].outcomes]
    return {
        "name": label,
        "tries": mean(o.tries for o in outcomes),
        "none": mean(o.graded.rule == "error" or o.graded.extracted is None for o in outcomes),
    }


def obeyed(found: Found) -> list[dict[str, Any]]:
    """Of each control model, unforced: shares of the outputs that have its form, that count exactly, and that keep
    within what was asked, and how far the thinking follows the number asked for."""
    rows = []
    for kind, series in (("token", "token-conditional"), ("step", "step-conditional"), ("class", "class-conditional")):
        folders = found.folders(f"control-{kind}", "mixed")
        for label in measure.labels(folders[0], series):
            logged = [row for folder in folders for row in measure.rows(folder, label)]
            limit = int(word) if (word := label.split()[-1]).isdigit() else 0
            row = {
                "name": label,
                "samples": len(logged),
                "formed": mean(formed(row, kind) for row in logged),
                "thinking": mean(row["thinking_tokens"] for row in logged),
            }
            if kind == "token":
                row["kept"] = mean(one["thinking_tokens"] <= limit for one in logged)
            if kind == "step":
                numbers = [control.countdown("<|im_start|>" + one["reasoning"]) for one in logged]
                row |= {
                    "counted": mean(control.counts_down(found, None) for found in numbers),
                    "exact": mean(control.counts_down(found, limit) for found in numbers),
                    "kept": mean(bool(found) and len(found) <= limit and min(found) > 0 for found in numbers),
                    "steps": mean(len(found) for found in numbers),
                }
            rows.append(row)
    return rows


def formed(row: Mapping[str, Any], kind: str) -> bool:
    """Whether a response closed its thinking by itself, answered, and has the marks of its kind and no others."""
    marks = row["reasoning"].count("<|im_start|>")
    ended = row["left_thinking"] and row["stop_reason"] == "natural" and row["finish_reason"] == "stop"
    answered = row["answer"].strip().startswith("Answer: ")
    right = marks == 0 if kind != "step" else len(control.countdown("<|im_start|>" + row["reasoning"])) == marks + 1
    return bool(ended and answered and right)


def table4(found: Found) -> dict[str, Any]:
    """Strings in place of the end of thinking, on s1-nano and on models trained with several."""
    told = {}
    for name, folders in {
        "s1-nano, which knows Wait alone": lambda group: [found.out / "nano-strings" / group],
        "trained with Wait, Hmm and Alternatively": lambda group: found.folders("strings", group),
    }.items():
        labels = list(measure.cells(folders(next(iter(GROUPS)))[0]))
        runs = {label: measure.together([measure.runs(folders(g), label) for g in GROUPS]) for label in labels}
        plain, wait = runs["0x Wait"], runs["2x Wait"]
        told[name] = [
            one.row(label, difference=asdict(one.over(plain)), to_wait=asdict(one.over(wait)))
            for label, one in runs.items()
        ]
    return told


def limits(found: Found) -> dict[str, Any]:
    """Many Waits, and positions beyond those seen."""
    folder = found.out / "nano-limits" / "mixed"
    rows = []
    before: Runs | None = None
    for label in measure.labels(folder, "extensions Wait"):
        runs, cell = measure.runs([folder], label), measure.cells(folder)[label]
        row = runs.row(label, loops=measure.in_loops(folder, label))
        row["full"] = mean(o.stop_reason in ("budget", "context", "max_tokens") for o in cell.outcomes)
        if before is not None:
            row["difference"] = asdict(runs.over(before))
        rows.append(row)
        before = runs
    stretched = {}
    for factor in YARN:
        folders = found.folders("stretched", f"yarn-{factor}/mixed")
        labels = measure.labels(folders[0], "extensions Wait")
        stretched[str(factor)] = [measure.runs(folders, label).row(label) for label in labels]
    last = next(iter(stretched.values()))[-1]["name"]
    plain, yarn = (measure.runs(found.folders("stretched", f"yarn-{f}/mixed"), last) for f in (1, 2))
    return {"rows": rows, "stretched": stretched, "trained": SHORT_TOKENS, "yarn": asdict(yarn.over(plain)), "at": last}


def curation(found: Found) -> dict[str, Any]:
    """Counts per stage, domains and lengths."""
    counts = measure.read(found.out / "curation" / "run" / "report" / "counts.json")
    titles = {code: title for code, title, *_ in (line.split("\t") for line in MSC.read_text().splitlines())}
    domains = sorted(counts["select"]["domains"].items(), key=lambda one: (-one[1], one[0]))
    return {
        "recipe": found.scale.recipe,
        "stages": {name: stage for name, stage in counts.items() if name != "seconds"},
        "domains": [{"code": code, "title": titles.get(code, code), "questions": count} for code, count in domains],
        "tokens": counts["format"]["thinking_tokens"],
        "chosen": counts["format"]["kept"],
        "minutes": sum(counts["seconds"].values()) / 60,
    }


def training(found: Found) -> dict[str, Any]:
    """The planned minutes of the published run."""
    return measure.read(found.out / "training" / "plan.json")


PARTS: Mapping[str, Callable[[Found], dict[str, Any]]] = {
    told_by.__name__: told_by
    for told_by in (base, figure1, figure7, table2, sizes, table8, table3, table4, limits, curation, training)
}
"""What tells the numbers of each part of the page."""
