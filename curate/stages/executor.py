"""How a row-wise function is run over a table: in this process, or as Ray Data tasks on a cluster.

No stage knows which. The function takes and returns a table, row by row independent; the result comes back in the order
of `key`, so both ways give the same table.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from curate.progress import Progress, no_progress
from engine.errors import InputError

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

Rows = Callable[["pl.DataFrame", Progress], "pl.DataFrame"]
"""From rows to rows; calls the second argument with the number of rows done since the last call."""


Executor = Callable[[Rows, "pl.DataFrame", Sequence[str], Progress], "pl.DataFrame"]
"""(function, table, key, advance) -> `function` over all rows of `table`, sorted by the columns `key` of the result."""


def local(function: Rows, table: "pl.DataFrame", key: Sequence[str], advance: Progress) -> "pl.DataFrame":
    """An executor: all rows at once, in this process."""
    return function(table, advance).sort(key)


@dataclass(frozen=True)
class RayData:
    """Slices of `batch_rows` rows as `map_batches` tasks. Models and the response store are opened by each task, so the
    store must lie on a file system that all nodes share."""

    address: str | None
    batch_rows: int

    def map(self, function: Rows, table: "pl.DataFrame", key: Sequence[str], advance: Progress) -> "pl.DataFrame":
        """An executor, see `Executor`."""
        import polars as pl  # slow, and a run where nothing has changed does without

        try:
            import ray  # optional: the extra [ray]
        except ImportError as error:
            raise InputError(
                "ray: is set, but the package ray[data] is not installed; install s1-engine[ray]"
            ) from error
        if not ray.is_initialized():
            ray.init(address=self.address, logging_level=logging.WARNING)
        if table.is_empty():
            return local(function, table, key, advance)

        def batch(rows: "pa.Table") -> "pa.Table":
            # Progress within a task is not seen from here; whole slices are.
            return function(pl.DataFrame(pl.from_arrow(rows)), no_progress).to_arrow()

        blocks = [part.to_arrow() for part in table.iter_slices(self.batch_rows)]
        data = ray.data.from_arrow(blocks).map_batches(batch, batch_format="pyarrow", batch_size=None)
        done = []
        for ref in data.to_arrow_refs():
            done.append(pl.DataFrame(pl.from_arrow(ray.get(ref))))
            advance(done[-1].height)
        return pl.concat(done).sort(key)
