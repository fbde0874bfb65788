"""Which replica has computed most of a prompt: what of it may be in a replica's prefix cache."""

from array import array
from collections import OrderedDict
from hashlib import blake2b

_KEPT = 1 << 16
"""Pages that are remembered of each replica: those of 4 million tokens, in 8 MB."""


def page_keys(prompt: array, size: int) -> list[bytes]:
    """A key for each full page of `size` tokens, of it and all before it."""
    running, keys = blake2b(digest_size=16), []
    for start in range(0, len(prompt) - size + 1, size):
        running.update(prompt[start : start + size].tobytes())
        keys.append(running.digest())
    return keys


class Prefixes:
    """The pages that one replica was sent, the longest unused forgotten first."""

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def known(self, keys: list[bytes]) -> int:
        """How many pages at the beginning it was sent before."""
        return next((at for at, key in enumerate(keys) if key not in self._keys), len(keys))

    def sent(self, keys: list[bytes]) -> None:
        """It gets these."""
        for key in keys:
            self._keys[key] = None
            self._keys.move_to_end(key)
        while len(self._keys) > _KEPT:
            self._keys.popitem(last=False)
