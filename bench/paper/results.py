"""From the folders of the steps to `paper.json`: every number that the page has, and whether each claim holds."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from pathlib import Path
from statistics import fmean as mean
from typing import Any

import numpy as np
import polars as pl
import torch

from bench.evaluation.estimators import majority_at_k
from bench.evaluation.outcomes import Cell
from bench.paper import control, measure, plan
from bench.paper.claims import claims
from bench.paper.control import TURN
from bench.paper.measure import Estimate, Runs
from bench.paper.plan import CUT_TOKENS, GROUPS, POOL_SEED, QUESTION_SEED, SHORT_TOKENS, YARN, Scale
from bench.paper.pool import MUCH
from bench.paper.steps import Steps
from bench.record import Machine
from bench.statistics import wilson
from curate.selection.domains import subjects
from engine.whole_file import write_whole

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
            "pool_of_one_family": MUCH,
            "room": {"tuned": plan.ROOM, "nano": plan.NANO_ROOM, "steps": plan.STEP_ROOM, "limits": plan.LONG_ROOM},
            "longest_text_of_the_base": SHORT_TOKENS,
            "tokens_per_step": plan.TOKENS_PER_STEP,
            "rejection_tries": plan.REJECTION["tries"],
            "search": {name: plan.SEARCHES[1][name] for name in ("temperature", "budget")},
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
            "four_waits": asdict(last.over(first)),
        }
    return groups


def figure7(found: Found) -> dict[str, Any]:
    """One longer thought beside votes and searches, by the tokens that each draws in all."""
    folder = found.out / "nano-parallel" / "mixed"
    cells = measure.cells(folder)
    named = {row["condition"]: row for row in measure.read(folder / "report.json")["tasks"][0]["conditions"]}

    def tokens(label: str) -> float:
        return float(named[label]["cost"]["unique_tokens"])

    sampled = next(label for label in cells if label.startswith("16 samples"))
    votes = {
        entry["k"]: (voted(cells[sampled], entry["k"]), entry["unique_tokens"]) for entry in named[sampled]["at_k"]
    }
    trees = [label for label, cell in cells.items() if cell.condition.series.startswith("rebase")]
    alone = [label for label, cell in cells.items() if cell.condition.series in ("budget", "extensions Wait")]
    best, widest = measure.runs([folder], "4x Wait"), measure.runs([folder], trees[-1])
    as_dear = next(k for k, (_, cost) in votes.items() if cost >= tokens("4x Wait"))
    return {
        "sequential": [measure.runs([folder], label).row(label, tokens=tokens(label)) for label in alone],
        "majority": [runs.row(f"majority of {k}", tokens=cost) for k, (runs, cost) in votes.items()],
        "rebase": [
            measure.runs([folder], label).row(label, tokens=tokens(label), failed=named[label]["errors"])
            for label in trees
        ],
        "votes": as_dear,
        "waits_over_as_dear_votes": asdict(best.over(votes[as_dear][0])),
        "waits_over_all_votes": asdict(best.over(votes[16][0])),
        "rebase_over_all_votes": asdict(widest.over(votes[16][0])),
        "rebase_over_waits": asdict(widest.over(best)),
    }


def voted(cell: Cell, k: int) -> Runs:
    """What k of the samples of each question vote, in expectation."""
    right = [majority_at_k([o.graded.vote for o in s], [o.right for o in s], k) for s in cell.samples]
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
    """Of a set, over the seeds: samples, tokens of a trace, shares of right traces and of its commonest family, and how
    much of it two seeds have in common."""
    pool = {row["question"]: row for row in _lines(found.out / "pool" / "pool.jsonl")}
    sets = [
        {row["question"] for row in _lines(found.out / f"{name}-{seed}" / "train.jsonl")} for seed in found.scale.seeds
    ]
    rows = [pool[question] for one in sets for question in sorted(one)]
    return {
        "samples": len(rows) / len(sets),
        "tokens": mean(row["trace_tokens"] for row in rows),
        "right": mean(row["correct"] for row in rows),
        "commonest": max(Counter(row["family"] for row in rows).values()) / len(rows),
        "common": mean(len(a & b) / len(a) for a, b in combinations(sets, 2)),
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
    files = [path / "train.jsonl" for path in found.folders("cut", ".")]
    return {
        "rows": [whole.row("whole"), cut.row(f"cut at {CUT_TOKENS} tokens")],
        "cut": mean(len(row["tokens"]) == CUT_TOKENS for file in files for row in _lines(file)),
        "difference": asdict(cut.over(whole)),
        "more_thinking": asdict(cut.longer(whole)),
    }


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
    best = {name: measure.runs(folders, curves[name]["best"]) for name, (folders, _) in methods.items()}
    other = max((name for name in best if name != "budget forcing"), key=lambda name: best[name].accuracy.value)
    asked = found.folders("control-class", "mixed")
    short, long = (measure.runs(asked, f"class-conditional {name}") for name in ("short", "long"))
    none = measure.runs(plain, "0x Wait")
    lengths = [float(runs.thinking.mean()) for runs in (short, none, long)]
    curves["class-conditional"]["control"] = mean((lengths[0] < lengths[1], lengths[2] > lengths[1]))
    return {
        "curves": curves,
        "best_other": other,
        "forcing_over_best_other": asdict(best["budget forcing"].over(best[other])),
        "rejection": rejection(plain, methods["rejection"][1]),
        "classes": [short.row("asked for short"), none.row("not asked (other models)"), long.row("asked for long")],
        "longer_when_asked": asdict(long.longer(short)),
        "obeyed": obeyed(found),
        "keeps": {
            kind: asdict(measure.estimate(np.mean([k for _, k in kept(found, kind)], axis=0)))
            for kind in ("token", "step")
        },
    }


def rejection(folders: Sequence[Path], labels: Sequence[str]) -> dict[str, Any]:
    """Draws at each limit, and the curve of the questions that every seed's model thought short enough for at all."""
    accepted = [
        np.array([[s[0].left_thinking for s in measure.cells(folder)[label].samples] for folder in folders])
        for label in labels
    ]
    always = np.all(accepted, axis=(0, 1))
    inside = [Runs(r.right[:, always], r.thinking[:, always]) for r in (measure.runs(folders, x) for x in labels)]
    slope = measure.scaling(inside) if always.sum() > 1 else None
    tries = [mean(o.tries for folder in folders for o in measure.cells(folder)[label].outcomes) for label in labels]
    return {
        "rows": [
            runs.row(label, tries=drawn, none=1 - float(short.mean()), part_of_all=True)
            for runs, label, drawn, short in zip(inside, labels, tries, accepted, strict=True)
            if always.any()
        ],
        "always": float(always.mean()),
        "scaling": None if slope is None else asdict(slope),
    }


def kept(found: Found, kind: str) -> list[tuple[str, np.ndarray]]:
    """Of each number asked for, whether each response [seeds, questions] kept to it: well formed, and within the
    tokens, or answered ahead of step 0."""
    folders = found.folders(f"control-{kind}", "mixed")
    return [
        (
            label,
            np.array([[_kept(row, kind, int(label.split()[-1])) for row in measure.rows(f, label)] for f in folders]),
        )
        for label in measure.labels(folders[0], f"{kind}-conditional")
    ]


def _kept(row: Mapping[str, Any], kind: str, limit: int) -> float:
    numbers = control.countdown(TURN + row["reasoning"])
    within = row["thinking_tokens"] <= limit if kind == "token" else len(numbers) <= limit and 0 not in numbers
    return float(within and formed(row, kind))


def obeyed(found: Found) -> list[dict[str, Any]]:
    """Of each control model, unforced: shares of the outputs that have its form, that count exactly, and that keep
    within what was asked."""
    rows = []
    for kind in ("token", "step", "class"):
        folders = found.folders(f"control-{kind}", "mixed")
        within = {} if kind == "class" else {label: float(share.mean()) for label, share in kept(found, kind)}
        for label in measure.labels(folders[0], f"{kind}-conditional"):
            logged = [row for folder in folders for row in measure.rows(folder, label)]
            row = {
                "name": label,
                "samples": len(logged),
                "formed": mean(formed(row, kind) for row in logged),
                "thinking": mean(row["thinking_tokens"] for row in logged),
            }
            if label in within:
                row["kept"] = within[label]
            if kind == "step":
                limit, numbers = int(label.split()[-1]), [control.countdown(TURN + one["reasoning"]) for one in logged]
                row |= {
                    "counted": mean(control.counts_down(found, None) for found in numbers),
                    "exact": mean(control.counts_down(found, limit) for found in numbers),
                    "steps": mean(len(found) for found in numbers),
                    "zero": mean(0 in found for found in numbers),
                }
            rows.append(row)
    return rows


def formed(row: Mapping[str, Any], kind: str) -> bool:
    """Whether a response closed its thinking by itself, answered, and has the marks of its kind and no others."""
    marks = row["reasoning"].count(TURN)
    ended = row["left_thinking"] and row["stop_reason"] == "natural" and row["finish_reason"] == "stop"
    answered = row["answer"].strip().startswith("Answer: ")
    right = marks == 0 if kind != "step" else len(control.countdown(TURN + row["reasoning"])) == marks + 1
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
        runs, cell, copied = measure.runs([folder], label), measure.cells(folder)[label], measure.copies(folder, label)
        same = Estimate(mean(copied), *wilson(sum(copied), len(copied)))
        full = mean(o.stop_reason in ("budget", "context", "max_tokens") for o in cell.outcomes)
        more = {} if before is None else {"difference": asdict(runs.over(before))}
        rows.append(runs.row(label, waits=int(label.split("x")[0]), copies=asdict(same), full=full, **more))
        before = runs
    at = {
        factor: {
            label: measure.runs(found.folders("stretched", f"yarn-{factor}/mixed"), label)
            for label in measure.labels(found.folders("stretched", f"yarn-{factor}/mixed")[0], "extensions Wait")
        }
        for factor in YARN
    }
    last = list(at[1])[-1]
    return {
        "rows": rows,
        "stretched": {str(factor): [runs.row(label) for label, runs in of.items()] for factor, of in at.items()},
        "trained": SHORT_TOKENS,
        "yarn": {str(factor): asdict(of[last].over(at[1][last])) for factor, of in at.items() if factor != 1},
        "at": last,
    }


def curation(found: Found) -> dict[str, Any]:
    """Counts per stage, sources, domains and lengths."""
    run = found.out / "curation" / "run"
    counts = measure.read(run / "report" / "counts.json")
    titles = {subject.code: subject.title for subject in subjects()}
    domains = sorted(counts["select"]["domains"].items(), key=lambda one: (-one[1], one[0]))
    lengths = {
        "all traces": pl.read_parquet(run / "trace" / "traces.parquet")["thinking_tokens"].drop_nulls(),
        "the selected": pl.read_parquet(run / "select" / "selection.parquet")["trace_tokens"],
    }
    return {
        "recipe": found.scale.recipe,
        "stages": {name: stage for name, stage in counts.items() if name != "seconds"},
        "sources": sorted(counts["select"]["sources"].items(), key=lambda one: (-one[1], one[0])),
        "domains": [{"code": code, "title": titles.get(code, code), "questions": count} for code, count in domains],
        "lengths": {
            name: {
                "traces": len(column),
                "sum": int(column.sum()),
                **{f"q{q}": float(np.quantile(column.to_numpy(), q / 100)) for q in (0, 25, 50, 75, 100)},
            }
            for name, column in lengths.items()
        },
    }


def training(found: Found) -> dict[str, Any]:
    """The planned minutes of the published run."""
    return measure.read(found.out / "training" / "plan.json")


PARTS: Mapping[str, Callable[[Found], dict[str, Any]]] = {
    told_by.__name__: told_by
    for told_by in (base, figure1, figure7, table2, sizes, table8, table3, table4, limits, curation, training)
}
"""What tells the numbers of each part of the page."""
