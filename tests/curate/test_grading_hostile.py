"""Hostile answers: bounded in time and memory, a row that says what happened, no process left behind."""

import os
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest

from curate.families import problems
from curate.grading.grade import AnswerKind, Grader, Item
from curate.grading.pool import LEAST_MB, Pool

LIMIT_S = 0.5
START_S = 20.0  # what a busy machine may take to start one process

HUGE = [
    "9^{9^{9^{9}}}",
    "(10^9)!",
    "(10^9)!+1",
    "(x+1)^{10000}",
    r"\binom{10^9}{5\cdot 10^8}",
    "2^{10^{10}}",
    "10^{10^{10}}+1",
    r"\sin(10^{10^{5}})",
    r"\sqrt[10^9]{2}",
    "(" * 450 + "1" + ")" * 450,
    "x" * 999,
    "+".join("x" * 450),
    r"\pm1" * 200,
    r"(0,1)\cup" * 90 + "(0,1)",
    " or ".join(f"x<{i}" for i in range(120)),
    r"\{" + ",".join(rf"\sqrt{{{i}}}" for i in range(90)) + r"\}",
    r"\left|" * 60 + "x" + r"\right|" * 60,
    "!" * 900 + "5",
    "5" + "!" * 900,
    "0." + r"\dot{1}" * 120,
    r"x_{" * 200,
    r"\frac1" * 150,
]
AT_ONCE = [
    "9" * 1_000_000,
    "9^" * 300_000 + "9",
    "(" * 500_000 + ")" * 500_000,
    "{" * 1_000_000,
    r"\boxed{" * 150_000,
    r"\boxed{" * 100_000 + "1" + "}" * 100_000,
    "$" * 1_000_000,
    "Answer:" * 150_000,
    "\nAnswer: x" * 100_000,
    "a" * 1_000_000 + "\n" + "b" * 1_000_000,
    "1," * 400,
    "0." + "0" * 900 + "1",
    "1e999",
    "\0" * 1000,
    "\ud800\udfff",
    "٣" * 1000,
    "²" * 1000,
    "\\" * 999,
    "[" * 400 + "1" + "]" * 400,
    "\\frac" * 190,
    "\\sqrt" * 190,
    "\\text{" * 150,
    "_" * 999,
    "=" * 999,
    ", and " * 160,
]


def alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def long_pair() -> tuple[str, str]:
    """Two sets that are one, which takes as long as answers of their length can."""
    each = [rf"\sin({i}x)\sqrt{{{i}+\sqrt{{x^2+y^{i}}}}}+\ln(x^2+{i})\cos(x^{i}y)" for i in range(2, 10)]
    return r"\{" + ",".join(each) + r"\}", r"\{" + ",".join(each[::-1]) + r"\}"


def test_huge_values_are_wrong_and_at_once():
    with Grader(time_limit_s=LIMIT_S) as grader:
        for reference in ("1", "x+1", r"\{1,2\}", r"\sqrt2"):
            items = [Item("\\boxed{" + text + "}", reference, AnswerKind.LATEX) for text in HUGE]
            items.append(Item(reference, reference + "+0", AnswerKind.LATEX))
            *grades, _ = grader.grade(items)
            stopped = [g.rule for g in grades if g.rule.rpartition("/")[2] in ("grader_timeout", "grader_crash")]
            assert not stopped and not any(grade.correct for grade in grades)


def test_what_takes_too_long_is_stopped_and_the_rest_is_graded():
    gold, given = long_pair()
    with Pool(1, time_limit_s=60, memory_limit_mb=1024) as pool:
        assert pool.run([(gold, given)])[0].correct
    with Grader(time_limit_s=0.02) as grader:
        items = [Item(given, gold, AnswerKind.LATEX), Item("x(x+1)", "x^2+x", AnswerKind.LATEX)]
        stopped, quick = grades = grader.grade(items)
        pids = grader.pids
        assert (stopped.correct, stopped.rule) == (False, "whole/grader_timeout")
        assert (quick.correct, quick.rule) == (True, "whole/expression")
        again = time.monotonic()
        assert grader.grade(items) == grades and time.monotonic() - again < LIMIT_S, "verdicts are kept"
    assert pids and not any(map(alive, pids))


@pytest.mark.parametrize("kind", [AnswerKind.LATEX, AnswerKind.NUMBER, AnswerKind.CHOICE, AnswerKind.TEXT])
def test_long_and_strange_strings_are_answered_at_once(kind):
    reference = {AnswerKind.CHOICE: "B", AnswerKind.TEXT: "cat"}.get(kind, "17")
    with Grader(time_limit_s=LIMIT_S) as grader:
        for text in AT_ONCE:
            started = time.monotonic()
            grade = grader.grade([Item(text, reference, kind, prompt="(A) x (B) y" * 1000)])[0]
            assert grade.correct is not True, (text[:20], grade)
            assert time.monotonic() - started < LIMIT_S + START_S, text[:20]
            assert len(grade.extracted or "") <= 1000


def test_extraction_of_megabytes_is_linear():
    def seconds(size: int) -> float:
        texts = ["\\boxed{" * size, "\nAnswer: x" * size, "1 " * 8 * size, "A) " * size, " " * 9 * size]
        with Grader() as grader:
            started = time.process_time()
            for text in texts:
                for kind in (AnswerKind.NUMBER, AnswerKind.CHOICE):
                    grader.grade([Item(text, "B" if kind is AnswerKind.CHOICE else "1", kind, prompt=text)])
            return time.process_time() - started

    seconds(100)
    assert seconds(40_000) < 5.0


def test_families_take_hostile_answers():
    with Grader() as grader:
        for problem in islice(problems("heldout", 1), 8):
            hostile = [*HUGE, *AT_ONCE, "9" * 900, "(" * 90 + "1" + ")" * 90, "1" * 99, "-" * 99 + "1", "0/0"]
            items = [Item(text, None, AnswerKind.FAMILY, problem.prompt, problem.family) for text in hostile]
            started = time.process_time()
            assert not any(grade.correct for grade in grader.grade(items))
            assert time.process_time() - started < 5.0
            right = Item(f"Answer: {problem.answer}", None, AnswerKind.FAMILY, problem.prompt, problem.family)
            assert grader.grade([right])[0].correct is True
        assert grader.pids == (), "families need no process"


def test_memory_is_bounded():
    with Pool(1, time_limit_s=1, memory_limit_mb=400) as pool:
        assert pool.run([("x^2+x", "x(x+1)")])[0].correct
        pid = pool.pids[0]
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert f"Max address space         {400 * 2**20}" in limits
        verdict = pool.run([("1", "2^{10^{10}}")])[0]  # a number of 1.25 GB
        assert (verdict.correct, verdict.rule) == (False, "value")
        assert pool.run([("x^2+x", "x(x+1)")])[0].correct


def test_a_limit_too_small_to_start_is_an_error_and_not_a_verdict():
    with pytest.raises(ValueError, match="memory_limit_mb is 20; a grading process needs 200 MiB"):
        Pool(1, 5.0, 20)
    with Pool(1, 5.0, LEAST_MB) as pool:
        assert pool.run([("x^2+x", "x(x+1)")])[0].correct


def test_a_worker_killed_from_outside_costs_one_verdict():
    with Pool(1, time_limit_s=5, memory_limit_mb=1024) as pool:
        assert pool.run([("x^2+x", "x(x+1)")])[0].correct
        os.kill(pool.pids[0], signal.SIGKILL)
        first, second = pool.run([("x^2+x", "x(x+1)"), ("2x", "x+x")])
        assert {first.rule, second.rule} == {"grader_crash", "expression"}


def test_no_process_outlives_an_exception():
    with pytest.raises(KeyError), Grader() as grader:
        grader.grade([Item("x(x+1)", "x^2+x", AnswerKind.LATEX)])
        pids = grader.pids
        raise KeyError
    assert pids and not any(map(alive, pids))


def test_no_process_outlives_a_killed_parent():
    code = (
        "import sys\nfrom curate.grading.pool import LEAST_MB, Pool\n"
        "with Pool(2, 1.0, 1024) as pool:\n"
        "    pool.run([('1', 'x'), ('2', 'y')])\n"
        "    print(*pool.pids, flush=True)\n"
        "    pool.run([('1', 'x+' * 400 + '1'), ('2', 'x+' * 400 + '2')])\n"
        "    sys.stdin.read()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(alive, pids))
    time.sleep(0.3)  # into the slow pair
    parent.kill()
    parent.wait()
    until = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, pids))
