"""Clocks and dates: a time later in the day (a hasty pass, then a careful one), and the first meeting on a weekday."""

import re
from random import Random

from curate.families.problem import Problem, Round, search_rounds

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def hours_on(hour: int, by: int) -> tuple[str, int]:
    """`hour` (1 to 12) plus `by` hours on the clock's face: the sum as text, and the hour."""
    total = hour + by
    return f"{hour}+{by}={total}" + (f" {total}-12={total - 12}" if total > 12 else ""), (total - 1) % 12 + 1


def clock(rng: Random) -> Problem | None:
    """A time plus hours and minutes, in fives; the hasty pass forgets that full minutes make an hour."""
    hour, by_h = rng.randint(1, 12), rng.randint(1, 9)
    minute, by_m = rng.randrange(10, 60, 5), rng.randrange(10, 60, 5)
    total = minute + by_m
    minutes = f"minutes {minute}+{by_m}={total}" + (f" {total}-60={total - 60:02d}" if total >= 60 else "")
    hours, late = hours_on(hour, by_h)
    slip = f"{late}:{total % 60:02d}"
    carry, carried = hours_on(late, 1) if total >= 60 else ("", late)
    answer = f"{carried}:{total % 60:02d}"
    careful = (minutes, f"hours {hours}" + (f" {carry}" if carry else ""), f"so {answer}")
    return Problem(
        family="clocks",
        key=f"{hour}:{minute} {by_h}:{by_m}",
        prompt=f"It is {hour}:{minute}. What time is it {by_h} hours and {by_m} minutes later?",
        answer=answer,
        rounds=(Round((f"hours {hours}", minutes, f"so {slip}"), slip), Round(careful, answer, "by parts")),
    )


def check_clock(prompt: str, answer: str) -> bool:
    """Whether `answer` is the right time on a twelve-hour clock."""
    hour, minute, by_h, by_m = map(int, re.findall(r"\d+", prompt))
    total = (hour % 12) * 60 + minute + by_h * 60 + by_m
    return answer.strip() == f"{total // 60 % 12 or 12}:{total % 60:02d}"


def weekday(rng: Random) -> Problem | None:
    """A club that meets every few days: the first meeting on a given weekday, found by walking along."""
    day, first, step, wanted = rng.randint(1, 20), rng.randrange(7), rng.randint(2, 6), rng.randrange(7)
    if wanted == first:
        return None
    tries, number, name = [], day, first
    while name != wanted:
        walked = f"{number}+{step}={number + step} {DAYS[name]} and {step} is {DAYS[(name + step) % 7]}"
        number, name = number + step, (name + step) % 7
        tries.append((f"{walked} first {DAYS[wanted]} {'yes' if name == wanted else 'no'}",))
    return Problem(
        family="weekdays",
        key=f"{day} {first} {step} {wanted}",
        prompt=f"Day {day} is a {DAYS[first]}. A club meets then and every {step} days. "
        f"Which day number is its first {DAYS[wanted]} meeting?",
        answer=str(number),
        rounds=search_rounds((), tries, 2, str(number)),
    )


def check_weekday(prompt: str, answer: str) -> bool:
    """Whether `answer` is the number of the first meeting that falls on the wanted weekday."""
    found = re.search(r"Day (\d+) is a (\w+)\. .* every (\d+) days\. .* first (\w+) meeting", prompt)
    day, step = int(found[1]), int(found[3])  # type: ignore[index]
    offset = (DAYS.index(found[4]) - DAYS.index(found[2])) % 7  # type: ignore[index]
    return answer.strip() == str(next(day + n for n in range(step, 7 * step + 1, step) if n % 7 == offset))
