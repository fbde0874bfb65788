"""What is fuzzed: a name, the cases, and what is done with one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st


@dataclass(frozen=True)
class Target:
    """`run` gives a case to the real reader; whatever it raises is a finding. `quick` cases are run in CI; `known` are
    those that were findings once, and run first always."""

    name: str
    cases: st.SearchStrategy[Any]
    run: Callable[[Any], None]
    quick: int = 12
    known: tuple[Any, ...] = ()
