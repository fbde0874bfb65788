"""Clocks and dates: a time later in the day (a hasty pass, then a careful one), and the first meeting on a weekday."""

import re
from random import Random

from curate.families.problem import Problem, Round, search_rounds

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def hours_on(hour: int, by: int) -> int:
    """The clock's hour (1 to 12) after `by` hours."""
    return (hour + by - 1) % 12 + 1


def clock(rng: Random) -> Problem | None:
    """A time plus hours and minutes; the hasty pass forgets that full minutes make an hour."""
    hour, minute, by_h, by_m = rng.randint(1, 12), rng.randrange(60), rng.randint(1, 9), rng.randint(5, 55)
    total = minute + by_m
    minutes = f"{minute}+{by_m}={total}" + (f" {total}-60={total - 60}" if total >= 60 else "")
    slip = f"{hours_on(hour, by_h)}:{total % 60:02d}"
    carried = hours_on(hour, total // 60)
    answer = f"{hours_on(carried, by_h)}:{total % 60:02d}"
    quick = (f"hour {hour} and {by_h} is {hours_on(hour, by_h)}", f"minute {minutes}", f"so {slip}")
    careful = (f"minute {minutes}", f"hour {hour} to {carried}", f"hour {carried} and {by_h} is {hours_on(carried, by_h)}")
    return Problem(
        family="clocks",
        key=f"{hour}:{minute:02d} {by_h}:{by_m:02d}",
        prompt=f"It is {hour}:{minute:02d}. What time is it {by_h} hours and {by_m} minutes later?",
        answer=answer,
        rounds=(Round(quick, slip), Round((*careful, f"so {answer} yes"), answer, "by parts")),
        recheck=f"so {answer} yes",
    )


def check_clock(prompt: str, answer: str) -> bool:
    """Whether `answer` is the right time on a twelve-hour clock."""
    hour, minute, by_h, by_m = map(int, re.findall(r"\d+", prompt))
    total = (hour % 12) * 60 + minute + by_h * 60 + by_m
    return answer.strip() == f"{total // 60 % 12 or 12}:{total % 60:02d}"


def weekday(rng: Random) -> Problem | None:
    """A club that meets every few days: the first meeting on a given weekday, found by walking along."""
    day, first, step, wanted = rng.randint(1, 20), rng.randrange(7), rng.randint(2, 12), rng.randrange(7)
    if step % 7 == 0 or wanted == first:
        return None
    tries = []
    for i in range(1, 7):
        number, name = day + i * step, (first + i * step) % 7
        tries.append((f"{number} {DAYS[name]} {DAYS[wanted]} {'yes' if name == wanted else 'no'}",))
        if name == wanted:
            break
    return Problem(
        family="weekdays",
        key=f"{day} {first} {step} {wanted}",
        prompt=f"Day {day} is a {DAYS[first]}. A club meets then and every {step} days. "
        f"Which day number is its first {DAYS[wanted]} meeting?",
        answer=str(number),
        rounds=search_rounds((f"{day} {DAYS[first]} plus {step} until {DAYS[wanted]}",), tries, 2, str(number)),
        recheck=tries[-1][0],
    )


def check_weekday(prompt: str, answer: str) -> bool:
    """Whether `answer` is the number of the first meeting that falls on the wanted weekday."""
    found = re.search(r"Day (\d+) is a (\w+)\. .* every (\d+) days\. .* first (\w+) meeting", prompt)
    day, step = int(found[1]), int(found[3])  # type: ignore[index]
    offset = (DAYS.index(found[4]) - DAYS.index(found[2])) % 7  # type: ignore[index]
    later = next(n for n in range(day + 1, day + 7 * step + 1) if (n - day) % step == 0 and (n - day) % 7 == offset)
    return answer.strip() == str(later)
