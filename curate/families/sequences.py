"""Sequences: find the next term by trying rules in a fixed order, from equal steps to growing ones."""

import re
from random import Random

from curate.families.problem import Problem, search_rounds

KINDS = ("same", "double", "sum", "swap", "grow")


def terms_of(kind: str, rng: Random) -> list[int]:
    """Six terms under the rule `kind`; steps that have to be compared are of one digit."""
    a, d, e = rng.randint(1, 20), rng.randint(1, 9), rng.randint(1, 9)
    t = [a]
    if kind == "same":
        t += [a + d * i for i in range(1, 6)]
    elif kind == "double":
        t += [a * 2**i for i in range(1, 6)]
    elif kind == "sum":
        t = [d, d + e]
        while len(t) < 6:
            t.append(t[-1] + t[-2])
    elif kind == "swap":
        for i in range(5):
            t.append(t[-1] + (d if i % 2 == 0 else e))
    else:
        for i in range(5):
            t.append(t[-1] + d + e * i)
    return t


def attempt(kind: str, t: list[int]) -> tuple[tuple[str, ...], int | None]:
    """The lines that try rule `kind` on the first five of `t`, up to what breaks it; the next term where it holds."""
    steps = [(f"{t[i + 1]}-{t[i]}={t[i + 1] - t[i]}", t[i + 1] - t[i]) for i in range(4)]
    if kind == "same":
        seen = [(text, step == steps[0][1]) for text, step in steps]
        following = f"{t[4]}+{steps[0][1]}={t[4] + steps[0][1]}"
    elif kind == "double":
        seen = [(f"{t[i]}+{t[i]}={2 * t[i]} is {t[i + 1]}", 2 * t[i] == t[i + 1]) for i in range(4)]
        following = f"{t[4]}+{t[4]}={2 * t[4]}"
    elif kind == "sum":
        seen = [(f"{t[i]}+{t[i + 1]}={t[i] + t[i + 1]} is {t[i + 2]}", t[i] + t[i + 1] == t[i + 2]) for i in range(3)]
        following = f"{t[3]}+{t[4]}={t[3] + t[4]}"
    elif kind == "swap":
        seen = [(f"{steps[i][0]} and {steps[i + 2][0]}", steps[i][1] == steps[i + 2][1]) for i in range(2)]
        following = f"{t[4]}+{steps[0][1]}={t[4] + steps[0][1]}"
    else:
        rise = [steps[i + 1][1] - steps[i][1] for i in range(3)]
        seen = [(" ".join(text for text, _ in steps), True)]
        seen += [(f"{steps[i + 1][1]}-{steps[i][1]}={rise[i]}", rise[i] == rise[0]) for i in range(3)]
        last = steps[3][1] + rise[0]
        following = f"{steps[3][1]}+{rise[0]}={last} {t[4]}+{last}={t[4] + last}"
    breaks = next((i for i, (_, holds) in enumerate(seen) if not holds), None)
    line = f"{kind} " + " ".join(text for text, _ in (seen if breaks is None else seen[: breaks + 1]))
    if breaks is None:
        return (f"{line} yes", following), int(following.split("=")[-1])
    return (f"{line} no",), None


def make(rng: Random) -> Problem | None:
    """A sequence of five terms whose rules that fit agree on the sixth."""
    kind = rng.choice(KINDS)
    t = terms_of(kind, rng)
    shown = t[:5]
    if t[5] > 99 or (kind == "grow" and shown[4] - shown[3] > 9):
        return None
    found = {attempt(kind, shown)[1] for kind in KINDS} - {None}
    if len(found) != 1:
        return None
    tries = []
    for kind in KINDS:
        lines, following = attempt(kind, shown)
        tries.append(lines)
        if following is not None:
            break
    head = ", ".join(map(str, shown))
    return Problem(
        family="sequences",
        key=head,
        prompt=f"What comes next: {head}?",
        answer=str(following),
        rounds=search_rounds((head,), tries, 2, str(following)),
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
