"""Which thousand: seed picks, then draws that spread over domains and favour long traces (arXiv 2501.19393, Alg. 1).

Two modes. `paper` draws domains uniformly to the end. `notebook`, the code that made s1K, does so until 700 are
selected and then draws domains by the counts of two benchmarks in the pool; it leaves the seed picks in the pools, so a
draw may repeat one and add nothing (`fix_pool` takes them out). Within a domain the trace of rank r (0 is the longest)
has weight 2^-r; what is drawn leaves the pool, so ranks move up, and a domain that is empty leaves the list.

One seeded PCG64 generator decides; pools and domains are sorted first, so neither the order of rows nor Python's
hashing matters.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import polars as pl

from curate.config import Select
from curate.records import SELECTION

BENCHMARK_SHARE = 0.5
"""Of the second benchmark's total against the first's, in the domain weights of mode `notebook`."""


@dataclass(frozen=True)
class Pick:
    """A question that was chosen, and why."""

    qid: str
    why: str
    weight: float
    """Probability of this draw."""


@dataclass(frozen=True)
class Candidate:
    """A question that may be chosen."""

    qid: str
    source: str
    domain: str
    trace_tokens: int
    correct: bool
    """Whether the teacher's own answer is right."""


def _longest_first(candidate: Candidate) -> tuple[int, str]:
    return -candidate.trace_tokens, candidate.qid


def seed_picks(pool: list[Candidate], settings: Select) -> list[Pick]:
    """Right answers of the seed sources, and right and long ones of the long source; in the order of the pool."""
    return [
        Pick(c.qid, "seed", 1.0)
        for c in pool
        if c.correct
        and (
            c.source in settings.seed_sources
            or (c.source == settings.long_source and c.trace_tokens > settings.long_tokens)
        )
    ]


def benchmark_weights(pool: list[Candidate], sources: tuple[str, str]) -> dict[str, int]:
    """Domain -> weight: counts of the first source, plus those of the second scaled to half the first's total and cut
    to whole numbers."""
    counts = [Counter(c.domain for c in pool if c.source == source) for source in sources]
    first, second = (sum(count.values()) for count in counts)
    scale = BENCHMARK_SHARE * first / second if second else 0.0
    scaled = {domain: int(n * scale) for domain, n in counts[1].items()}
    return {domain: counts[0][domain] + scaled.get(domain, 0) for domain in sorted({*counts[0], *scaled})}


def spread(pool: list[Candidate], settings: Select, rng: np.random.Generator) -> list[Pick]:
    """Seed picks and draws of modes `paper` and `notebook`; fewer than `count` where the pool runs out."""
    notebook = settings.mode == "notebook"
    picks = seed_picks(pool, settings)[: settings.count]
    taken = {pick.qid for pick in picks}
    domains: dict[str, list[Candidate]] = defaultdict(list)
    for c in sorted(pool, key=_longest_first):
        if c.qid not in taken or (notebook and not settings.fix_pool):
            domains[c.domain].append(c)
    names = sorted(domains)
    benchmark = benchmark_weights(pool, settings.weight_sources) if notebook else {}
    while len(picks) < settings.count and names:
        weights = [benchmark.get(name, 0) for name in names]
        if notebook and len(picks) >= settings.uniform_until and sum(weights) > 0:
            why, chances = "benchmark", np.array(weights) / sum(weights)
        else:
            why, chances = "uniform", np.full(len(names), 1 / len(names))
        at = int(rng.choice(len(names), p=chances))
        members = domains[names[at]]
        ranks = rank_weights(len(members))
        rank = int(rng.choice(len(members), p=ranks))
        drawn = members.pop(rank)
        if not members:
            names.pop(at)
        if drawn.qid not in taken:
            taken.add(drawn.qid)
            picks.append(Pick(drawn.qid, why, float(chances[at] * ranks[rank])))
    return picks


def rank_weights(count: int) -> np.ndarray:
    """Probabilities [count] of ranks 0, 1, ...: proportional to 2^-rank."""
    weights = np.ldexp(1.0, -np.arange(count))
    return weights / weights.sum()


def diverse(pool: list[Candidate], settings: Select, rng: np.random.Generator) -> list[Pick]:
    """Ablation: domains uniformly, questions within a domain uniformly; trace length plays no part."""
    domains: dict[str, list[Candidate]] = defaultdict(list)
    for c in pool:
        domains[c.domain].append(c)
    names = sorted(domains)
    picks: list[Pick] = []
    while len(picks) < settings.count and names:
        at = int(rng.choice(len(names)))
        members = domains[names[at]]
        chance = 1 / (len(names) * len(members))
        picks.append(Pick(members.pop(int(rng.choice(len(members)))).qid, "diverse", chance))
        if not members:
            names.pop(at)
    return picks


def plain(pool: list[Candidate], settings: Select, rng: np.random.Generator) -> list[Pick]:
    """Ablations whose draws do not depend on each other: any questions of the pool, the longest traces, all of it."""
    if settings.mode == "random":
        return [Pick(pool[i].qid, "random", 1 / len(pool)) for i in rng.permutation(len(pool))[: settings.count]]
    chosen = sorted(pool, key=_longest_first)[: settings.count] if settings.mode == "longest" else pool
    return [Pick(c.qid, settings.mode, 1.0) for c in chosen]


MODES = {
    "paper": spread,
    "notebook": spread,
    "diverse": diverse,
    "random": plain,
    "longest": plain,
    "full": plain,
}


def select(pool: pl.DataFrame, settings: Select, seed: int) -> pl.DataFrame:
    """The selection [SELECTION] from `pool` [qid, source, domain, trace_tokens, correct], whatever its order."""
    candidates = [Candidate(**row) for row in pool.sort("qid").iter_rows(named=True)]
    picks = MODES[settings.mode](candidates, settings, np.random.Generator(np.random.PCG64(seed)))
    of = {c.qid: c for c in candidates}
    return pl.DataFrame(
        [
            (p.qid, settings.mode, seed, order, p.why, p.weight, of[p.qid].domain, of[p.qid].trace_tokens)
            for order, p in enumerate(picks)
        ],
        schema=SELECTION,
        orient="row",
    )
