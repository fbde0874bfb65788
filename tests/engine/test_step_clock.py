"""The engine's own clock: every step once, in order, with what it did; idle time is nobody's."""

import time
from itertools import pairwise
from pathlib import Path

import pytest

from engine import Engine, SamplingParams
from tests.checkpoints import write_random_checkpoint


@pytest.mark.parametrize("overlap", [False, True])
def test_every_step_is_told_once(tmp_path: Path, overlap: bool) -> None:
    folder = write_random_checkpoint(tmp_path, hidden=32, layers=1, heads=2, kv_heads=1)
    options = {"device": "cpu", "max_model_len": 128, "max_num_seqs": 4, "max_num_batched_tokens": 8, "page_size": 16}
    with Engine(folder, overlap=overlap, step_graphs="on", enable_prefix_caching=False, **options) as engine:
        params = SamplingParams(max_tokens=12, ignore_eos=True, thinking_format="none")
        start = time.perf_counter()
        with engine.clocked() as times:
            engine.generate([[5] * 20, [6] * 20], params)
            time.sleep(0.3)
            engine.generate([[7] * 20], params)
        taken = time.perf_counter() - start
        engine.generate([[8]], params)
        counters = engine.stats()
    assert sum(one.prefill for one in times) == 60
    # A request's first token is drawn with its prompt's last chunk.
    assert sum(one.decodes for one in times) == 3 * 11
    assert max(one.prefill for one in times) == 8, "chunks"
    full = [one for one in times if one.decodes == 2 and not one.prefill]
    assert len(full) >= 8
    assert [b.keys - a.keys for a, b in pairwise(full)] == [2] * (len(full) - 1)
    assert full[0].keys > 2 * 20
    assert all(one.seconds > 0 for one in times)
    assert sum(one.seconds for one in times) <= taken - 0.3, "the pause is no step's"
    assert counters["steps"] == len(times) + 12, "nothing is entered once nobody asks"
