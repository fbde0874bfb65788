"""REBASE (arXiv 2408.00724): every step's width is shared among the open branches by their reward.

A branch that ends takes one off the width, which is never returned to the tree; so as many answers come as the width
was. The rules by which a width is shared are in `engine.search.shares`.
"""

from engine.errors import InputError
from engine.search.shares import Rule, share
from engine.search.walk import Found, Walk


def rebase(walk: Walk, width: int, temperature: float = 0.1, rule: Rule = "code") -> Found:
    """`width` answers; by the paper's rule, whose shares need not add up, about as many. `temperature` balances:
    towards 0 all go on from the best branch (the paper's 0.1, the published
    settings' 0.2). Branches that are open after the last step answer at once, instead of being lost, and so they do
    where the paper's rule rounds every share to 0."""
    if width < 1:
        raise InputError(f"width is {width}; give at least 1")
    open_, leaves, left = walk.start(width), [], width
    for _ in walk.rounds():
        walk.grow(open_)
        leaves += [branch for branch in open_ if branch.finished]
        left -= sum(branch.finished for branch in open_)
        open_ = [branch for branch in open_ if not branch.finished]
        if left <= 0 or not open_:
            break
        widths = share(walk.score(open_), left, temperature, rule)
        if not any(widths):
            break
        open_ = [child for branch, n in zip(open_, widths, strict=True) if n for child in walk.spread(branch, n)]
    return walk.found([*leaves, *open_])
