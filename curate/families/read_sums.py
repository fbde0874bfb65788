"""Reads the lines of the families that reckon: countdowns, chains and clocks."""

import re
from collections import Counter
from itertools import pairwise
from typing import ClassVar

from curate.families.written import SUM, chained, sums


class Countdown:
    """`2+5=7 and 6` (two of three numbers joined; of four, three: `9+4=13 13-2=11 and 6`), then tries of the rest."""

    QUESTION: ClassVar[str] = r"Use each of .*\d and \d+ once.* to make \d+\."

    def __init__(self, prompt: str) -> None:
        *self.numbers, self.target = map(int, re.findall(r"\d+", prompt))
        self.operators = "+-" if "plus and minus only" in prompt else "+-*"
        self.left: list[int] = []
        self.found = False

    def step(self, line: str, fresh: bool) -> bool | None:
        if re.fullmatch(r"\d+(, \d+)* and \d+ make \d+", line):
            *numbers, target = map(int, re.findall(r"\d+", line))
            return Counter(numbers) == Counter(self.numbers) and target == self.target
        written = sums(line)
        allowed = all(s.right and s.op in self.operators for s in written)
        if re.fullmatch(rf"({SUM} )+and \d+", line):
            rest = int(line.split()[-1])
            used = Counter([n for s in written for n in (s.a, s.b)] + [rest])
            between = Counter(s.result for s in written[:-1])  # made and used up again: not of the question
            self.left = [written[-1].result, rest]
            joined = all(before.result in (after.a, after.b) for before, after in pairwise(written))
            return allowed and joined and used - between == Counter(self.numbers)
        if form := re.fullmatch(rf"{SUM} make (\d+) (low|high|yes)", line):
            (tried,), target, said = written, int(form[1]), form[2]
            self.found |= said == "yes"
            true = {"low": tried.result < target, "high": tried.result > target, "yes": tried.result == target}[said]
            return allowed and true and target == self.target and Counter((tried.a, tried.b)) == Counter(self.left)
        return None

    def follows(self, answer: str) -> bool:
        return self.found


class Chains:
    """`Add 34. 53+34=87`, at one go or by parts (`53+30=83 83+4=87`)."""

    QUESTION: ClassVar[str] = r"Start with \d+\.(\n(Add|Subtract) \d+\.)+\nWhat is the result\?"

    def __init__(self, prompt: str) -> None:
        (_, self.start), *self.todo = (
            (verb, int(n)) for verb, n in re.findall(r"(Start with|Add|Subtract) (\d+)", prompt)
        )
        self.reached = {0: self.start}
        self.places = {0}  # how many instructions are done; more than one place where a step taken up fits two

    def step(self, line: str, fresh: bool) -> bool | None:
        if form := re.fullmatch(r"Start with (\d+)\.", line):
            self.places, self.reached[0] = {0}, int(form[1])
            return int(form[1]) == self.start
        form = re.fullmatch(rf"(Add|Subtract) (\d+)\.((?: {SUM})+)", line)
        if not form:
            return None
        task, written = (form[1], int(form[2])), sums(form[3])
        fitting = {i for i, todo in enumerate(self.todo) if (todo, self.reached.get(i)) == (task, written[0].a)}
        due = fitting if fresh else fitting & self.places
        self.places = {i + 1 for i in due or self.places}
        self.reached |= dict.fromkeys(self.places, written[-1].result)
        parts = sum(s.b for s in written) == task[1] and {s.op for s in written} == {"+" if task[0] == "Add" else "-"}
        return bool(due) and parts and chained(written)

    def follows(self, answer: str) -> bool:
        return len(self.todo) in self.places and answer == str(self.reached[len(self.todo)])


class Clocks:
    """`hours 12+5=17 17-12=5` and `minutes 35+25=60 60-60=00`; the hour that full minutes make is due behind them."""

    QUESTION: ClassVar[str] = r"It is \d+:\d+\. What time is it \d+ hours and \d+ minutes later\?"

    def __init__(self, prompt: str) -> None:
        self.hour, self.minute, self.by_h, self.by_m = map(int, re.findall(r"\d+", prompt))
        self.end: dict[str, int] = {}
        self.full = self.due = False  # the minutes made an hour: last time, and in this round

    def step(self, line: str, fresh: bool) -> bool | None:
        form = re.fullmatch(rf"(hours|minutes)((?: {SUM})+)", line)
        if not form:
            return None
        self.due = self.due and not fresh
        written = sums(form[2])
        first, *then = [s[:3] for s in written]
        self.end[form[1]] = written[-1].result
        moves = [(op, b) for _, op, b in then]
        if form[1] == "minutes":
            self.full = self.due = written[0].result >= 60
            fits = first == (self.minute, "+", self.by_m) and moves == [("-", 60)] * self.full
            return fits and chained(written)
        carries = moves.count(("+", 1))
        fits = first == (self.hour, "+", self.by_h) and set(moves) <= {("-", 12), ("+", 1)}
        return fits and self.due <= carries <= self.full and chained(written) and 1 <= written[-1].result <= 12

    def follows(self, answer: str) -> bool:
        return answer == f"{self.end.get('hours')}:{self.end.get('minutes', 60):02d}"
