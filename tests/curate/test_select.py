"""Selection: against a direct transcription of the published algorithm, by chi-square, and the same everywhere."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.stats import chisquare

from curate.config import Select
from curate.selection.select import Candidate, benchmark_weights, rank_weights, select, spread

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("NuminaMATH", "MATH", "AIME", "GPQA", "OmniMath")


def pool(size, seed=0, domains=51):
    rng = random.Random(seed)
    return [
        {
            "qid": f"{rng.getrandbits(64):016x}",
            "source": rng.choices(SOURCES, (50, 20, 8, 4, 18))[0],
            "domain": f"{min(int(rng.paretovariate(0.7)), domains):02d}",
            "trace_tokens": int(rng.gammavariate(2, 1800)),
            "correct": rng.random() < 0.3,
        }
        for _ in range(size)
    ]


def transcribed(rows, mode, seed, target=1000):
    """The dossier's algorithm, step by step, over plain dictionaries.

    1. Start from the benchmark picks: right answers of GPQA and AIME, right answers of MATH longer than 5,600 tokens.
    2. While fewer than 1,000: paper, or fewer than 700: a domain uniformly; else by AIME's domain counts plus GPQA's
       scaled by 0.5 x (AIME total / GPQA total), cut to integers, normalised.
    3. In the domain rank by length, probability 2^-rank; draw one, add it (again: no change), remove it from the pool;
       remove emptied domains from both lists.
    The paper's Algorithm 1 leaves the picks out of the pool, the notebook does not.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = sorted(rows, key=lambda row: row["qid"])
    selected = []
    for row in rows:
        if row["correct"] and (
            row["source"] in ("GPQA", "AIME") or (row["source"] == "MATH" and row["trace_tokens"] > 5600)
        ):
            selected.append(row["qid"])
    remaining = {row["qid"]: row for row in rows}
    if mode == "paper":
        for qid in selected:
            del remaining[qid]
    all_domains = sorted({row["domain"] for row in remaining.values()})
    aime = Counter(row["domain"] for row in rows if row["source"] == "AIME")
    gpqa = Counter(row["domain"] for row in rows if row["source"] == "GPQA")
    scale = 0.5 * sum(aime.values()) / sum(gpqa.values())
    bench = {d: aime[d] + int(gpqa[d] * scale) for d in set(aime) | set(gpqa)}
    while len(selected) < target and remaining:
        if mode == "paper" or len(selected) < 700:
            p = [1 / len(all_domains) for _ in all_domains]
        else:
            total = sum(bench.get(d, 0) for d in all_domains)
            p = [bench.get(d, 0) / total for d in all_domains]
        domain = all_domains[rng.choice(len(all_domains), p=p)]
        inside = [row for row in remaining.values() if row["domain"] == domain]
        inside.sort(key=lambda row: row["qid"])
        inside.sort(key=lambda row: row["trace_tokens"], reverse=True)
        weights = np.array([2.0**-rank for rank in range(len(inside))])
        drawn = inside[rng.choice(len(inside), p=weights / weights.sum())]["qid"]
        if drawn not in selected:
            selected.append(drawn)
        del remaining[drawn]
        if len(inside) == 1:
            all_domains.remove(domain)
    return selected


@pytest.mark.parametrize("mode", ["paper", "notebook"])
@pytest.mark.parametrize("seed", [0, 42])
def test_agrees_with_the_transcription_on_5000_questions(mode, seed):
    rows = pool(5000, seed)
    made = select(pl.DataFrame(rows), Select(mode=mode), seed)
    assert made["qid"].to_list() == transcribed(rows, mode, seed)
    assert made["qid"].n_unique() == made.height == 1000
    whys = made["why"].unique(maintain_order=True).to_list()
    assert whys == (["seed", "uniform"] if mode == "paper" else ["seed", "uniform", "benchmark"])


def test_the_switch_to_benchmark_weights_comes_at_700():
    made = select(pl.DataFrame(pool(5000)), Select(mode="notebook"), 1)
    assert made.filter(pl.col("why") == "benchmark")["order"].min() == 700


def test_ten_thousand_draws_have_the_stated_weights():
    """One draw from three domains of different sizes, 10,000 times: domains uniform, ranks 2^-rank."""
    sizes = {"a": 1, "b": 3, "c": 40}
    rows = [Candidate(f"{d}{i}", "NuminaMATH", d, 1000 - i, False) for d, n in sizes.items() for i in range(n)]
    rng = np.random.Generator(np.random.PCG64(5))
    settings = Select(count=1)
    drawn = Counter(spread(rows, settings, rng)[0].qid for _ in range(10_000))
    expected = {
        row.qid: 10_000 / 3 * 2.0 ** -int(row.qid[1:]) / sum(2.0**-k for k in range(sizes[row.domain])) for row in rows
    }
    tail = [q for q, e in expected.items() if e < 5]
    observed = [drawn[q] for q in expected if q not in tail] + [sum(drawn[q] for q in tail)]
    wanted = [e for q, e in expected.items() if q not in tail] + [sum(expected[q] for q in tail)]
    assert chisquare(observed, wanted).pvalue > 0.001


def test_ten_thousand_draws_by_benchmark_weights():
    rows = [
        Candidate(f"{s}{d}{i}", s, d, 10, False)
        for s, d, n in (("AIME", "a", 30), ("AIME", "b", 10), ("GPQA", "b", 5), ("GPQA", "c", 15), ("MATH", "z", 9))
        for i in range(n)
    ]
    assert benchmark_weights(rows, ("AIME", "GPQA")) == {"a": 30, "b": 15, "c": 15}
    rng = np.random.Generator(np.random.PCG64(6))
    settings = Select(mode="notebook", count=1, uniform_until=0)
    domain_of = {row.qid: row.domain for row in rows}
    drawn = Counter(domain_of[spread(rows, settings, rng)[0].qid] for _ in range(10_000))
    assert set(drawn) == {"a", "b", "c"}
    assert chisquare([drawn["a"], drawn["b"], drawn["c"]], [5000, 2500, 2500]).pvalue > 0.001


@pytest.mark.parametrize("mode", ["paper", "notebook", "random", "diverse", "longest", "full"])
def test_the_order_of_rows_does_not_matter(mode):
    rows = pool(800)
    settings = Select(mode=mode, count=200, uniform_until=100)
    one = select(pl.DataFrame(rows), settings, 3)
    two = select(pl.DataFrame(rows[::-1]), settings, 3)
    assert one.equals(two)
    if mode not in ("longest", "full"):
        assert one["qid"].to_list() != select(pl.DataFrame(rows), settings, 4)["qid"].to_list()


def test_the_same_in_another_process_and_under_another_hash_seed(tmp_path):
    rows, path = pool(600), tmp_path / "pool.json"
    path.write_text(json.dumps(rows))
    modes = ("paper", "notebook", "diverse")
    code = (
        "import json, sys, polars as pl; from curate.config import Select; from curate.selection.select import select\n"
        "rows = json.load(open(sys.argv[1]))\n"
        f"for mode in {modes}:\n"
        "    print(select(pl.DataFrame(rows), Select(mode=mode, count=200, uniform_until=90), 9)['qid'].to_list())"
    )
    seed = "0" if os.environ.get("PYTHONHASHSEED") == "12345" else "12345"
    there = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        env=os.environ | {"PYTHONHASHSEED": seed},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    here = [select(pl.DataFrame(rows), Select(mode=mode, count=200, uniform_until=90), 9) for mode in modes]
    assert there == "".join(f"{picked['qid'].to_list()}\n" for picked in here) and len(there) > 200 * 16


def test_seed_picks_come_first_and_fix_pool_takes_them_out():
    rows = pool(300)
    right = [
        r["qid"]
        for r in sorted(rows, key=lambda r: r["qid"])
        if r["correct"] and (r["source"] in ("GPQA", "AIME") or (r["source"] == "MATH" and r["trace_tokens"] > 5600))
    ]
    for settings in (Select(count=290), Select(mode="notebook", count=290), Select(mode="notebook", fix_pool=True)):
        made = select(pl.DataFrame(rows), settings, 2)
        assert made.filter(pl.col("why") == "seed")["qid"].to_list() == right
        assert made["qid"].n_unique() == made.height
    assert select(pl.DataFrame(rows), Select(count=5), 2)["qid"].to_list() == right[:5]


def test_a_pool_that_is_too_small_is_taken_whole():
    rows = pool(50)
    for mode in ("paper", "notebook", "random", "diverse", "longest", "full"):
        made = select(pl.DataFrame(rows), Select(mode=mode), 1)
        assert sorted(made["qid"]) == sorted(r["qid"] for r in rows)
    empty = pl.DataFrame(rows).clear()
    assert select(empty, Select(), 1).is_empty()


def test_ablations():
    rows = pool(400)
    longest = select(pl.DataFrame(rows), Select(mode="longest", count=30), 0)
    assert longest["trace_tokens"].to_list() == sorted((r["trace_tokens"] for r in rows), reverse=True)[:30]
    diverse = select(pl.DataFrame(rows), Select(mode="diverse", count=100), 0)
    uniform = select(pl.DataFrame(rows), Select(mode="random", count=100), 0)
    assert diverse["domain"].n_unique() > uniform["domain"].n_unique()


def test_rank_weights_of_a_long_list_do_not_vanish():
    weights = rank_weights(30_000)
    assert weights.sum() == pytest.approx(1)
    assert weights[:4].tolist() == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 16])
