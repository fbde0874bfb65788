"""What the host tells the device about a decode step: who decodes, and which pages are new."""

from collections.abc import Sequence

import torch

SLOT, PLACE, PAGE = range(3)
"""Rows of the input: each row's slot; where in the flat block table a new page goes; the page."""


class StepInputs:
    """One small tensor on the device, written in place: a captured step reads it at the same address every time.

    The host fills one of two buffers (pinned on CUDA) while the copy out of the other may still be under way; a buffer
    is filled again two steps later, when the step that read it has been read back.
    """

    def __init__(self, rows: int, dummy_slot: int, dummy_place: int, device: torch.device) -> None:
        """Up to `rows` decoding sequences. Rows that nobody needs decode the dummy request, and write page 0 to
        `dummy_place`, which holds page 0."""
        self._dummy = (dummy_slot, dummy_place, 0)
        self.device = torch.empty(3, rows, dtype=torch.int64, device=device)
        """[3, rows] int64"""
        self._hosts = [torch.empty(3, rows, dtype=torch.int64, pin_memory=device.type == "cuda") for _ in range(2)]
        self._arrays = [host.numpy() for host in self._hosts]
        self.clear()

    def clear(self) -> None:
        """Make every row the dummy request."""
        for row, value in enumerate(self._dummy):
            self.device[row] = value

    def write(self, slots: Sequence[int], new_pages: Sequence[tuple[int, int]], bucket: int) -> torch.Tensor:
        """Bring the step's slots and at most as many new pages to the device, padded to `bucket` rows.
        Returns [3, bucket] int64, a view of `device`."""
        array, count = self._arrays[0], len(slots)
        array[SLOT, :count] = slots
        if bucket > count:
            array[SLOT, count:bucket] = self._dummy[SLOT]
        array[PLACE, :bucket] = self._dummy[PLACE]
        array[PAGE, :bucket] = 0
        for at, (place, page) in enumerate(new_pages):
            array[PLACE, at], array[PAGE, at] = place, page
        self.device.copy_(self._hosts[0], non_blocking=True)
        self._hosts.reverse()
        self._arrays.reverse()
        return self.device[:, :bucket]
