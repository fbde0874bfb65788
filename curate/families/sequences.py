"""Sequences: find the next term by trying rules in a fixed order, from equal steps to alternating ones."""

import re
from random import Random

from curate.families.problem import Problem, search_rounds


def terms_of(kind: str, rng: Random) -> list[int]:
    """Six terms under the rule `kind`."""
    a, d, e = rng.randint(1, 20), rng.randint(1, 9), rng.randint(1, 5)
    t = [a]
    if kind == "add":
        t += [a + d * i for i in range(1, 6)]
    elif kind == "grow":
        for i in range(5):
            t.append(t[-1] + d + e * i)
    elif kind == "sum":
        t.append(rng.randint(1, 12))
        while len(t) < 6:
            t.append(t[-1] + t[-2])
    elif kind == "double":
        t[0] = a % 9 + 1
        t += [t[0] * 2**i for i in range(1, 6)]
    else:
        for i in range(5):
            t.append(t[-1] + (d if i % 2 == 0 else e))
    return t


KINDS = ("add", "grow", "sum", "double", "swap")


def attempt(kind: str, t: list[int]) -> tuple[str, int | None]:
    """The line that tries rule `kind` on the first five of `t`, and the next term where the rule holds."""
    d = [t[i + 1] - t[i] for i in range(4)]
    steps = [f"{t[i]} {t[i + 1]} is {d[i]}" for i in range(4)]
    if kind == "add":
        holds, step = len(set(d)) == 1, d[0]
        seen = " ".join(steps if holds else steps[: next(i for i in range(4) if d[i] != d[0]) + 1])
    elif kind == "grow":
        e = [d[i + 1] - d[i] for i in range(3)]
        holds, step = len(set(e)) == 1, d[3] + e[0]
        seen = " ".join(steps) + f" by {e[0]} {e[1]}" + (f" {e[2]}" if e[0] == e[1] else "")
    elif kind == "sum":
        holds, step = all(t[i] + t[i + 1] == t[i + 2] for i in range(3)), t[3]
        seen = f"{t[0]}+{t[1]}={t[0] + t[1]} is {t[2]}"
    elif kind == "double":
        holds, step = all(t[i + 1] == 2 * t[i] for i in range(4)), t[4]
        seen = f"{t[0]}+{t[0]}={2 * t[0]} is {t[1]}"
    else:
        holds, step = d[0] == d[2] and d[1] == d[3], d[0]
        seen = f"{steps[0]} {steps[2]} and {steps[1]} {steps[3]}"
    if holds:
        grown = f"{d[3]}+{step - d[3]}={step} " if kind == "grow" else ""
        return f"{kind} {seen} yes {grown}{t[4]}+{step}={t[4] + step}", t[4] + step
    return f"{kind} {seen} no", None


def make(rng: Random) -> Problem | None:
    """A sequence of five terms whose rules that fit agree on the sixth."""
    t = terms_of(rng.choice(KINDS), rng)
    shown = t[:5]
    if min(shown[i + 1] - shown[i] for i in range(4)) < 0 or t[5] > 99:
        return None
    found = {attempt(kind, shown)[1] for kind in KINDS} - {None}
    if len(found) != 1:
        return None
    lines = []
    for kind in KINDS:
        line, following = attempt(kind, shown)
        lines.append((line,))
        if following is not None:
            break
    head = ", ".join(map(str, shown))
    return Problem(
        family="sequences",
        key=head,
        prompt=f"What comes next: {head}?",
        answer=str(following),
        rounds=search_rounds((head,), lines, 2, str(following)),
        recheck=lines[-1][0],
    )


def check(prompt: str, answer: str) -> bool:
    """Whether `answer` continues the sequence of the prompt under the rules that fit it."""
    a, b, c, d, e = map(int, re.findall(r"\d+", prompt))
    following = set()
    if b - a == c - b == d - c == e - d:
        following.add(e + (b - a))
    if c - 2 * b + a == d - 2 * c + b == e - 2 * d + c:
        following.add(3 * e - 3 * d + c)
    if (c, d, e) == (a + b, b + c, c + d):
        following.add(d + e)
    if (b, c, d, e) == (2 * a, 4 * a, 8 * a, 16 * a):
        following.add(32 * a)
    if (b - a, c - b) == (d - c, e - d):
        following.add(e + (b - a))
    return re.fullmatch(r"\d+", answer.strip()) is not None and following == {int(answer)}
