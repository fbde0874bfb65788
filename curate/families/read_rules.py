"""Reads the lines of the families that walk or compare: residues, weekdays, sequences and runners."""

import re
from itertools import pairwise
from typing import ClassVar

from curate.families.clocks import DAYS
from curate.families.logic import holds
from curate.families.sequences import KINDS
from curate.families.written import SUM, said, sums


class Residues:
    """`12+9=21 is 1 ends in 3 no`, one term after the other."""

    QUESTION: ClassVar[str] = r"Count up from \d+ in steps of \d+\. .* (leaves \d when divided by 5|ends in \d)\?"

    def __init__(self, prompt: str) -> None:
        self.at, self.by = map(int, re.findall(r"\d+", prompt)[:2])
        self.modulus = 5 if "divided by 5" in prompt else 10
        self.wanted: tuple[str, str] = re.findall(r"(leaves|ends in) (\d)", prompt)[0]
        self.reached, self.found = {self.at}, ""

    def step(self, line: str, fresh: bool) -> bool | None:
        form = re.fullmatch(rf"{SUM} is (\d+) (leaves|ends in) (\d+) (yes|no)", line)
        if not form:
            return None
        (walked,) = sums(line)
        due = walked.a == self.at or (fresh and walked.a in self.reached)
        self.at = walked.result
        self.reached.add(self.at)
        if form[4] == "yes":
            self.found = str(self.at)
        rest = int(form[1]) == self.at % self.modulus and (form[2], form[3]) == self.wanted
        return due and walked[1:3] == ("+", self.by) and walked.right and rest and form[4] == said(form[1] == form[3])

    def follows(self, answer: str) -> bool:
        return answer == self.found


class Weekdays:
    """`12+4=16 Wednesday and 4 is Sunday first Friday no`, one meeting after the other."""

    QUESTION: ClassVar[str] = r"Day (\d+) is a (\w+)\. .* every (\d+) days\. .* first (\w+) meeting\?"

    def __init__(self, prompt: str) -> None:
        day, name, by, wanted = re.findall(self.QUESTION, prompt)[0]
        self.at, self.by, self.wanted, self.found = int(day), int(by), str(wanted), ""
        self.names = {self.at: name}

    def step(self, line: str, fresh: bool) -> bool | None:
        day = "|".join(DAYS)
        form = re.fullmatch(rf"{SUM} ({day}) and (\d+) is ({day}) first ({day}) (yes|no)", line)
        if not form:
            return None
        (walked,), (name, by, after, wanted, verdict) = sums(line), form.groups()
        due = (walked.a == self.at or fresh) and self.names.get(walked.a) == name
        self.at = walked.result
        self.names[self.at] = after
        if verdict == "yes":
            self.found = str(self.at)
        moved = walked[1:3] == ("+", self.by) and walked.right and int(by) == self.by
        turned = DAYS[(DAYS.index(name) + self.by) % 7] == after
        return due and moved and turned and wanted == self.wanted and verdict == said(after == wanted)

    def follows(self, answer: str) -> bool:
        return answer == self.found


class Sequences:
    """`same 22-16=6 29-22=7 no`: a rule, what it takes at each place up to what breaks it; then the term it gives."""

    QUESTION: ClassVar[str] = r"What comes next: \d+(, \d+){4}\?"

    def __init__(self, prompt: str) -> None:
        t = self.terms = [int(n) for n in re.findall(r"\d+", prompt)]
        step = [after - before for before, after in pairwise(t)]
        rise = [after - before for before, after in pairwise(step)]
        less = [(t[i + 1], "-", t[i]) for i in range(4)]
        self.places = {
            "same": less,
            "double": [(n, "+", n) for n in t[:4]],
            "sum": [(t[i], "+", t[i + 1]) for i in range(3)],
            "swap": [less[i] for i in (0, 2, 1, 3)],
            "grow": less + [(step[i + 1], "-", step[i]) for i in range(3)],
        }
        self.gives = {
            "same": [(t[4], "+", step[0])],
            "double": [(t[4], "+", t[4])],
            "sum": [(t[3], "+", t[4])],
            "swap": [(t[4], "+", step[0])],
            "grow": [(step[3], "+", rise[0]), (t[4], "+", step[3] + rise[0])],
        }
        self.held = self.following = ""

    def step(self, line: str, fresh: bool) -> bool | None:
        if re.fullmatch(r"\d+(, \d+)+", line):
            return [int(n) for n in line.split(", ")] == self.terms
        written = sums(line)
        if re.fullmatch(rf"{SUM}( {SUM})?", line):
            self.following = str(written[-1].result)
            return [s[:3] for s in written] == self.gives.get(self.held) and all(s.right for s in written)
        item = rf"(?: {SUM})+"
        shapes = {"double": rf"(?: {SUM} is \d+)+", "sum": rf"(?: {SUM} is \d+)+", "swap": rf"(?: {SUM} and {SUM})+"}
        kind, _, rest = line.partition(" ")
        form = re.fullmatch(rf"{shapes.get(kind, item)} (yes|no)", f" {rest}")
        if kind not in KINDS or not form:
            return None
        if form[1] == "yes":
            self.held = kind
        compared, results = [int(n) for n in re.findall(r"is (\d+)", rest)], [s.result for s in written]
        shift = {"double": 1, "sum": 2}.get(kind, 0)
        match kind:
            case "same":
                fits = [n == results[0] for n in results]
            case "swap":
                fits = [x == y for x, y in zip(results[::2], results[1::2], strict=True)]
            case "grow":
                fits = [n == results[4] for n in results[4:]]
            case _:
                fits = [n == m for n, m in zip(results, compared, strict=True)]
        due = self.places[kind]
        true = [s[:3] for s in written] == due[: len(written)] and all(s.right for s in written)
        at_place = not shift or compared == self.terms[shift : shift + len(compared)]
        follows = all(fits) and len(written) == len(due) if form[1] == "yes" else not all(fits)
        return true and at_place and follows

    def follows(self, answer: str) -> bool:
        return answer == self.following


class Logic:
    """`see Bob was before Dan in Dan Bob Kim no`: one clue in one order."""

    QUESTION: ClassVar[str] = r"Runners (\w+), (\w+) and (\w+) ran a race\.( \w+ was before \w+\.)+ In which order .*"

    def __init__(self, prompt: str) -> None:
        self.names = sorted(re.findall(self.QUESTION, prompt)[0][:3])
        self.clues = set(re.findall(r"(\w+) was before (\w+)\.", prompt))
        self.held: set[tuple[tuple[str, str], str]] = set()

    def step(self, line: str, fresh: bool) -> bool | None:
        form = re.fullmatch(r"see (\w+) was before (\w+) in (\w+) (\w+) (\w+) (yes|no)", line)
        if not form:
            return None
        clue, order = (form[1], form[2]), form.groups()[2:5]
        if form[6] == "yes":
            self.held.add((clue, ", ".join(order)))
        there = clue in self.clues and sorted(order) == self.names
        return there and form[6] == said(holds(clue, order))

    def follows(self, answer: str) -> bool:
        return all((clue, answer) in self.held for clue in self.clues)
