"""What is done: every model and every evaluation of the page, as steps with the minutes that they took once."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.paper import work
from bench.paper.control import STRINGS
from bench.paper.corpus import LONGEST
from bench.paper.steps import Place, Step

NANO, REWARD = Path("models/s1-nano"), Path("models/s1-nano-prm")
GROUPS: Mapping[str, tuple[str, ...]] = {
    "countdown": ("countdown3", "countdown4"),
    "arithmetic": ("chains", "sequences"),
    "order": ("clocks", "weekdays", "logic", "residues"),
}
"""Families of questions that stand for the paper's three benchmarks."""
QUESTION_SEED, POOL_SEED, BASE_SEED = 2033, 2031, 1
"""The first is one that nothing here was chosen by."""


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    questions: int = 1000
    """Held-out ones, of an accuracy."""
    problems: int = 75_000
    """Of the base's corpus."""
    thousand: int = 1000
    """Samples of a set; the pool is four times as many."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Of every model that is tuned: what is drawn into its set, and in which order it is seen."""
    recipe: str = "offline_59k"
    """Of curation."""

    @property
    def samples(self) -> int:
        """That a tuning goes through, whatever its set: a thousand four times, or the pool once."""
        return 4 * self.thousand


REHEARSAL = Scale(questions=24, problems=300, thousand=24, seeds=(1, 2), recipe="offline_2k")
"""Everything in minutes, for tests: its numbers say nothing."""

RECIPE = ("data.batch_size=8", "optim.lr=1.0e-3", "optim.min_lr=1.0e-5", "metrics.every=25")
"""Of every tuning."""
ROOM, NANO_ROOM, STEP_ROOM, LONG_ROOM = 464, 1024, 720, 1900
"""Most tokens of thinking: of a tuned model, of s1-nano, of a model that counts its steps, and as much as s1-nano's
context of 2,048 has room for."""
BUDGETS = {"method": "budget", "budgets": [16, 32, 64, 128, 256]}
AUTO = {"method": "auto"}
TOKEN_LIMITS, STEP_LIMITS, TOKENS_PER_STEP = [32, 64, 128, 256], [4, 8, 16, 32], 18
REJECTION = {"method": "rejection", "limits": [32, 48, 64, 96, 128], "tries": 16}
STRINGS_ASKED = ("", *STRINGS, *(f"\n\n{text}" for text in STRINGS))
TWICE = [{"method": "extensions", "extensions": [2], "string": text, "budget": ROOM} for text in STRINGS_ASKED]
CONTROLLED: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "token": [{"method": "token_conditional", "limits": TOKEN_LIMITS, "forced": forced} for forced in (False, True)],
    "step": [
        {"method": "step_conditional", "limits": STEP_LIMITS, "forced": forced, "tokens_per_step": TOKENS_PER_STEP}
        for forced in (False, True)
    ],
    "class": [{"method": "class_conditional"}, AUTO],
}
"""Table 3: the models that are told how long to think, and how each is asked."""
CUT_TOKENS = 98
"""Table 8: about as many training texts are longer as in the paper (74 %)."""
SHORT_TOKENS, YARN = LONGEST, (1, 2, 4)
"""No training text is longer, where a model is to be asked for more than it has seen; factors that its positions are
stretched by then (1: not at all)."""
SHARES = (0.1, 0.3, 1.0, 3.0)
"""Of a thousand: sizes of random sets."""
SEARCHES = [
    {"method": "parallel", "samples": 16, "budgets": [128], "temperature": 1.5},
    {
        "method": "rebase",
        "widths": [4, 8, 16],
        "reward": {"model": str(REWARD), "engine": {"kv_cache_tokens": 65536}},
        "temperature": 1.5,
        "budget": 128,
        "stop": "\n",
    },
]


PARTS: Mapping[str, tuple[str, ...]] = {
    "base": ("random",),
    "figure1": ("nano-groups",),
    "figure7": ("nano-parallel",),
    "table2": ("paper", "random", "diverse", "longest", "full"),
    "sizes": ("random", *(f"size-{share:g}" for share in SHARES if share != 1)),
    "table8": ("random", "cut"),
    "table3": ("random", "control-token", "control-step", "control-class"),
    "table4": ("nano-strings", "strings"),
    "limits": ("nano-limits", "stretched"),
    "curation": ("curation",),
    "training": ("training",),
}
"""The steps of each part of the page, without their seeds; what these need comes with them."""


def waits(*counts: int, budget: int = ROOM) -> dict[str, Any]:
    """So many "Wait"s within a budget."""
    return {"method": "extensions", "extensions": list(counts), "budget": budget}


@dataclass(frozen=True)
class Asked:
    """What a model is asked: methods on every group, and others on the mixed questions of s1-nano's card."""

    groups: Sequence[Mapping[str, Any]] = ()
    mixed: Sequence[Mapping[str, Any]] = ()
    most: int = ROOM

    def of(self, model: Path, scale: Scale, place: Place) -> None:
        """Evaluate: `<step>/<group>` and `<step>/mixed`."""
        for name, methods in {**dict.fromkeys(GROUPS, self.groups), "mixed": self.mixed}.items():
            if methods:
                families = list(GROUPS.get(name, ()))
                task = {"count": scale.questions, "seed": QUESTION_SEED, "families": families}
                work.evaluate(place.folder / name, model, task, methods, self.most)


STRETCHED = Asked(mixed=[waits(0, 1, 2, 4, 8)])


def base(scale: Scale, asked: Asked, place: Place) -> None:
    """The base, and what it can do before any tuning."""
    asked.of(work.make_base(place, scale.problems, BASE_SEED), scale, place)


def tuned(scale: Scale, made: Mapping[str, Any], seed: int, asked: Asked, place: Place) -> None:
    """The base tuned on a set."""
    asked.of(work.tune(place, made, scale.samples, seed, RECIPE), scale, place)


def stretched(scale: Scale, seed: int, place: Place) -> None:
    """A model of short texts, asked for long thoughts with its positions stretched by every factor of YARN."""
    made = {"mode": "random", "count": scale.thousand, "form": "short", "tokens": SHORT_TOKENS}
    model = work.tune(place, made, scale.samples, seed, RECIPE)
    for factor in YARN:
        inner = Place(place.folder, f"yarn-{factor}")
        copy = model if factor == 1 else work.with_yarn(model, inner.folder / "model", factor, SHORT_TOKENS)
        STRETCHED.of(copy, scale, inner)


def made_by() -> str:
    """A hash of what else decides a result: how data are made, recipes, and the models that are used as they are."""
    files = [Path(__file__).with_name(f"{name}.py") for name in ("control", "corpus", "pool", "work")]
    files += [work.RECIPES / f"s1_nano_{name}.yaml" for name in ("pretrain", "sft")]
    files += [file for model in (NANO, REWARD) for file in sorted(model.glob("*.safetensors"))]
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def steps(scale: Scale) -> list[Step]:
    """All of them, long ones early: two cores end together."""
    shown = {
        "made by": made_by(),
        "scale": asdict(scale),
        "question seed": QUESTION_SEED,
        "groups": {k: list(v) for k, v in GROUPS.items()},
    }

    def of_nano(name: str, minutes: float, asked: Asked) -> Step:
        return Step(f"nano-{name}", minutes, partial(asked.of, NANO, scale), shown | {"asked": asdict(asked)})

    def tuning(name: str, seed: int, minutes: float, asked: Asked, mode: str = "random", **made: Any) -> Step:
        made = {"mode": mode, "count": scale.thousand} | made
        settings = shown | {"asked": asdict(asked), "made": made, "seed": seed, "recipe": RECIPE}
        return Step(f"{name}-{seed}", minutes, partial(tuned, scale, made, seed, asked), settings, ("base", "pool"))

    before = Asked([{"method": "none", "opener": False}, AUTO])
    curves = Asked([BUDGETS, waits(0, 1, 2, 4, 6, budget=NANO_ROOM)], most=NANO_ROOM)
    strings = Asked([waits(0, budget=NANO_ROOM), *({**t, "budget": NANO_ROOM} for t in TWICE)], most=NANO_ROOM)
    limits = Asked(mixed=[waits(0, 1, 2, 4, 8, 16, 32, 64, 96, budget=LONG_ROOM)], most=LONG_ROOM)
    parallel = Asked(mixed=[BUDGETS, waits(1, 2, 4, budget=NANO_ROOM), *SEARCHES], most=NANO_ROOM)
    table2 = Asked([AUTO])
    found = [
        Step("base", 10.0, partial(base, scale, before), shown | {"seed": BASE_SEED, "asked": asdict(before)}),
        Step("curation", 9.0, partial(work.curate, scale.recipe), {"recipe": scale.recipe}),
        of_nano("parallel", 5.0, parallel),
        of_nano("groups", 2.0, curves),
        of_nano("strings", 3.0, strings),
        of_nano("limits", 10.0, limits),
        Step("pool", 0.5, partial(work.draw_pool, scale.samples, POOL_SEED), shown | {"seed": POOL_SEED}, ("base",)),
        Step("training", 0.2, work.training_plan, {}),
    ]
    for seed in scale.seeds:
        for kind, methods in CONTROLLED.items():
            most = STEP_ROOM if kind == "step" else ROOM
            found.append(tuning(f"control-{kind}", seed, 2.3, Asked(mixed=methods, most=most), form=kind))
        forcing = Asked([AUTO], [BUDGETS, waits(0, 1, 2, 4), REJECTION])
        found.append(tuning("random", seed, 3.5, forcing))
        found += [tuning(mode, seed, 2.0, table2, mode) for mode in ("paper", "diverse", "longest")]
        found.append(tuning("full", seed, 1.5, table2, "full", count=scale.samples))
        for share in SHARES:
            if share != 1:
                found.append(tuning(f"size-{share:g}", seed, 1.6, table2, count=round(share * scale.thousand)))
        found.append(tuning("cut", seed, 1.1, table2, form="cut", tokens=CUT_TOKENS))
        found.append(tuning("strings", seed, 4.6, Asked([waits(0), *TWICE]), form="strings"))
        made = shown | {
            "seed": seed,
            "recipe": RECIPE,
            "yarn": YARN,
            "tokens": SHORT_TOKENS,
            "asked": asdict(STRETCHED),
        }
        found.append(Step(f"stretched-{seed}", 2.3, partial(stretched, scale, seed), made, ("base", "pool")))
    return found
