"""Independent samples, all at once or until enough is known: what votes, and choices among whole answers, need."""

from collections.abc import Callable, Sequence

from engine.errors import InputError
from engine.search.branch import Branch
from engine.search.walk import Found, Walk


def samples(walk: Walk, count: int) -> Found:
    """`count` samples, step by step where the walk has a reward, which scores steps, or so many tokens; otherwise in
    one go."""
    branches = walk.start(count)
    open_ = branches
    for _ in walk.rounds() if walk.stepwise else ():
        walk.grow(open_)
        open_ = [branch for branch in open_ if not branch.finished]
        if not open_:
            break
    if open_ and walk.steps.tree_tokens is None:
        walk.grow_by(open_, None)
    return walk.found(branches)


def until(walk: Walk, most: int, window: int, enough: Callable[[Sequence[Branch]], bool]) -> Found:
    """Samples in windows of `window`, at most `most`, until `enough` of those so far: a vote that cannot change any
    more (`votes.decided`), that is likely not to (`votes.adaptive_stop`), or a window that agrees."""
    if most < 1 or window < 1:
        raise InputError(f"most is {most} and window {window}; give at least 1 of each")
    branches = walk.start(most)
    drawn: list[Branch] = []
    while len(drawn) < most and not (drawn and walk.spent):
        row = branches[len(drawn) : len(drawn) + window]
        walk.grow_by(row, None)
        drawn += row
        if enough(drawn):
            break
    return walk.found(drawn)


def shortest(walk: Walk, count: int, wanted: int, slice_tokens: int = 64) -> Found:
    """short-m@k (arXiv 2505.17813): of `count` samples that think at once, the `wanted` whose thinking ends first; the
    rest is dropped. All go on `slice_tokens` at a time, so what is dropped cost at most that many tokens too many."""
    if not 1 <= wanted <= count or slice_tokens < 1:
        raise InputError(f"{wanted} of {count} samples, {slice_tokens} tokens at a time; give 1 to all of them")
    open_ = walk.start(count)
    order = {branch: at for at, branch in enumerate(open_)}
    ended: list[Branch] = []
    while len(ended) < wanted and open_ and not walk.spent:
        walk.grow_by(open_, slice_tokens)
        ended += [branch for branch in open_ if branch.finished]
        open_ = [branch for branch in open_ if not branch.finished]
    late = max(0, wanted - len(ended))  # none, unless the tree has all the tokens that it may have
    for branch in open_[late:]:
        branch.close()
    ranked = sorted(ended, key=lambda branch: (branch.thinking_tokens, order[branch]))[:wanted]
    return walk.found(sorted([*ranked, *open_[:late]], key=order.__getitem__))
