"""Delimiters of plain text, found in what tokens decode to, however a tokenizer cuts it.

The first byte of a delimiter never occurs again inside one (`engine.thinking.plan` refuses it), so a match that fails
can only go on as one that starts at the byte it failed on.
"""

from collections.abc import Callable, Sequence

import numpy as np

from kernels.thinking_tables import HIT, HIT_INSIDE

MAX_STATES = 128
"""Of a format: bytes of its triggers and its opener, with two to begin at."""


class TokenBytes:
    """The bytes of a whole vocabulary, one token behind the other."""

    def __init__(self, size: int, token_bytes: Callable[[int], bytes]) -> None:
        pieces = [token_bytes(token) for token in range(size)]
        self.lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.data = np.frombuffer(b"".join(pieces) or b"\0", dtype=np.uint8)


def next_states(patterns: Sequence[bytes], tokens: TokenBytes) -> np.ndarray:
    """[states, V] int16: rows of `kernels.thinking_tables.MachineTables.next` for one set of delimiters."""
    children: list[dict[int, int]] = [{}]
    depths = [0]
    complete: set[int] = set()
    for pattern in patterns:
        at = 0
        for byte in pattern:
            if byte not in children[at]:
                children[at][byte] = len(children)
                children.append({})
                depths.append(depths[at] + 1)
            at = children[at][byte]
        complete.add(at)
    depth = np.array(depths)
    whole = np.zeros(len(depths), dtype=bool)
    whole[list(complete)] = True
    steps = np.zeros((len(depths), 256), dtype=np.int64)
    for state, following in enumerate(children):
        for byte, child in {**children[0], **following}.items():
            steps[state, byte] = child

    def scan(state: int, chosen: np.ndarray) -> np.ndarray:
        """What the tokens `chosen` make of `state`."""
        states, found = np.full(len(chosen), state), np.zeros(len(chosen), dtype=np.int16)
        lengths, active, at = tokens.lengths[chosen], np.arange(len(chosen)), 0
        while len(active := active[lengths[active] > at]):
            states[active] = steps[states[active], tokens.data[tokens.starts[chosen[active]] + at]]
            at += 1
            hits = whole[states[active]]
            ended = active[hits]
            found[ended] = np.where(depth[states[ended]] <= at, HIT_INSIDE, HIT)
            active = active[~hits]
        open_ = 2 * states + ((states > 0) & (depth[states] <= lengths))
        return np.where(found < 0, found, open_).astype(np.int16)

    first = tokens.data[np.minimum(tokens.starts, len(tokens.data) - 1)]
    begin = scan(0, np.arange(len(tokens.lengths)))
    rows = np.tile(begin, (len(depths), 1))
    for state in range(1, len(depths)):  # a token whose first byte breaks the match does what it does without one
        chosen = np.flatnonzero((tokens.lengths == 0) | (steps[state, first] != steps[0, first]))
        rows[state, chosen] = scan(state, chosen)
    return rows


def advance(rows: np.ndarray, state: int, ids: Sequence[int]) -> int:
    """The state behind the tokens `ids`; a delimiter that they complete is none."""
    for token in ids:
        state = max(int(rows[state, token]), 0) >> 1
    return state
