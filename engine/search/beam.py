"""Beam search and diverse verifier trees by step rewards, as in Hugging Face's search-and-learn (Apache-2.0; rules and
names are its, the code is ours). Of equal scores the branch that was made first is kept."""

from collections.abc import Sequence

from engine.errors import InputError
from engine.search.branch import Branch
from engine.search.walk import Found, Walk


def beam(walk: Walk, count: int, keep_one_of: int = 4) -> Found:
    """`count` answers. In every step `count` beams go on from the best `count` / `keep_one_of` of the step before,
    which take turns until there are as many; one that ends is an answer, and is replaced. It is over once there are
    `count` answers: the first ones are the result. After the last step the beams that would go on answer at once."""
    kept, ended = _part(count, keep_one_of), list[Branch]()
    beams = walk.start(count)
    for _ in walk.rounds():
        walk.grow(beams)
        scores = walk.score(beams)
        ended += [branch for branch in beams if branch.finished]
        if len(ended) >= count:
            break
        open_ = [(branch, score) for branch, score in zip(beams, scores, strict=True) if not branch.finished]
        survivors = best([branch for branch, _ in open_], [score for _, score in open_], kept)
        beams = _refilled(walk, survivors, count)
    return walk.found([*ended, *beams][:count])


def _refilled(walk: Walk, survivors: Sequence[Branch], count: int) -> list[Branch]:
    """`count` branches that go on from the survivors, which take turns."""
    turns = [-(-(count - at) // len(survivors)) for at in range(len(survivors))]
    rows = [walk.spread(branch, turn) for branch, turn in zip(survivors, turns, strict=True)]
    return [row[turn] for turn in range(turns[0]) for row in rows if turn < len(row)]


def diverse(walk: Walk, count: int, keep_one_of: int = 4) -> Found:
    """DVTS: `count` / `keep_one_of` trees that know nothing of each other. In every step a tree draws `keep_one_of`
    candidates and goes on from the best; it is over when that one has ended: its last candidates are its answers."""
    heads = walk.start(_part(count, keep_one_of))
    leaves = [[head] for head in heads]
    going = list(range(len(heads)))
    for _ in walk.rounds():
        rows = [walk.spread(heads[tree], keep_one_of) for tree in going]
        flat = [branch for row in rows for branch in row]
        walk.grow(flat)
        scores = iter(walk.score(flat))
        for tree, row in zip(going, rows, strict=True):
            [heads[tree]] = best(row, [next(scores) for _ in row], 1)
            leaves[tree] = row
        going = [tree for tree in going if not heads[tree].finished]
        if not going:
            break
    return walk.found([branch for row in leaves for branch in row])


def best(branches: Sequence[Branch], scores: Sequence[float], count: int) -> list[Branch]:
    """The `count` branches with the highest scores, highest first; of equal ones the earlier."""
    ranked = sorted(range(len(branches)), key=lambda at: (-scores[at], at))
    return [branches[at] for at in ranked[:count]]


def _part(count: int, keep_one_of: int) -> int:
    if keep_one_of < 1 or count < keep_one_of or count % keep_one_of:
        raise InputError(f"count is {count} and keep_one_of {keep_one_of}; give a count that is a multiple of it")
    return count // keep_one_of
