"""The response store: what goes in comes out, errors are rows, processes may share it."""

import subprocess
import sys

import pytest

from curate.models.asking import Answer, Ask, Sampling
from curate.models.store import Store

ASK = Ask("q1", ({"role": "user", "content": "?"},), Sampling(max_tokens=9), "question-1")


def test_what_goes_in_comes_out(tmp_path):
    full = Answer("q1", "k1", "Answer: 3\0", "é\n", "stop", 5, 0, None, "m-2026")
    empty = Answer("q1", "k2", finish_reason="length")
    failed = Answer("q1", "k3", error="timeout", detail="no response within 3 s")
    with Store(tmp_path / "a" / "store.sqlite") as store:
        store.put(full, ASK, "m", tries=3, seconds=1.5)
        store.put_all([(empty, ASK), (failed, ASK)], "m")
        assert [store.get(key) for key in ("k1", "k2", "k3", "k4")] == [full, empty, failed, None]
    with Store(tmp_path / "a" / "store.sqlite") as store:
        assert [store.get(key) for key in ("k1", "k2", "k3")] == [full, empty, failed]
        assert store.errors() == [("m", "q1", "timeout", "no response within 3 s")]
        (totals,) = store.totals()
        assert (totals.calls, totals.errors, totals.tries, totals.prompt_tokens, totals.seconds) == (3, 1, 5, 5, 1.5)
    with Store(tmp_path / "a" / "store.sqlite", retry_errors=True) as store:
        assert store.get("k1") == full and store.get("k3") is None
        store.put(Answer("q1", "k3", "at last", finish_reason="stop"), ASK, "m")
        assert store.errors() == [] and store.totals()[0].calls == 3


def test_a_transaction_that_fails_leaves_nothing(tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        bad = Answer("q1", "k2", text=None)  # type: ignore[arg-type]
        with pytest.raises(Exception, match="NOT NULL"):
            store.put_all([(Answer("q1", "k1"), ASK), (bad, ASK)], "m")
        assert store.get("k1") is None
        store.put(Answer("q1", "k1"), ASK, "m")
        assert store.get("k1") == Answer("q1", "k1")


def test_processes_share_a_store(tmp_path):
    code = (
        "import sys\nfrom curate.models.asking import Answer, Ask, Sampling\nfrom curate.models.store import Store\n"
        "with Store(sys.argv[1]) as store:\n"
        "    for i in range(150):\n"
        "        ask = Ask(f'q{i}', (), Sampling(), 'p-1')\n"
        "        store.put(Answer(f'q{i}', f'{sys.argv[2]} {i}', 'x'), ask, sys.argv[2])\n"
    )
    path = tmp_path / "store.sqlite"
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("a", "b", "c")]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    with Store(path) as store:
        assert [(t.model, t.calls) for t in store.totals()] == [("a", 150), ("b", 150), ("c", 150)]
