"""The response store: what goes in comes out, errors are rows, processes may share it."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from curate.models import store as store_module
from curate.models.asking import Answer, Ask, Sampling
from curate.models.store import Store, StoreError
from engine.errors import InputError

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
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in ("a", "b")]
    assert [writer.wait(120) for writer in writers] == [0, 0]
    with Store(path) as store:
        assert [(t.model, t.calls) for t in store.totals()] == [("a", 150), ("b", 150)]


def test_a_full_or_read_only_disk_is_one_line_and_loses_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("this user cannot mount a tmpfs")
    try:
        path, stored = disk / "store.sqlite", []
        full = r"store\.sqlite: database or disk is full; make room and run the same command: what had been answered is"
        with Store(path) as store:
            with pytest.raises(StoreError, match=full):
                for i in range(100):
                    store.put(Answer("q", f"k{i}", "x" * 10_000), ASK, "m")
                    stored.append(f"k{i}")
            assert len(stored) > 3 and all(store.get(key) for key in stored)
        subprocess.run(["mount", "-o", "remount,size=4m", disk], check=True)
        with Store(path) as store:
            assert all(store.get(key) for key in stored) and store.get(f"k{len(stored)}") is None
            store.put(Answer("q", "more"), ASK, "m")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        with pytest.raises(
            StoreError, match=r"store\.sqlite: .*(readonly|unable to open).*; make the file and its folder"
        ):
            Store(path)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_store_that_another_process_locks_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "BUSY_S", 0.05)
    with Store(tmp_path / "store.sqlite") as store, closing(sqlite3.connect(tmp_path / "store.sqlite")) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"database is locked; wait for the process that holds it"):
            store.put(Answer("q", "k"), ASK, "m")
        other.rollback()
        store.put(Answer("q", "k"), ASK, "m")


@pytest.mark.parametrize("content", [b"no database at all" * 100, None])
def test_what_is_no_store_is_refused(tmp_path, content):
    path = tmp_path / "store.sqlite"
    if content is None:
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE responses (a)")
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"is no response store .*; move it away or name another file"):
        Store(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="unable to open database file"):
        Store(tmp_path / "folder")


@pytest.mark.parametrize("folder", [False, True])
def test_a_store_that_is_removed_is_written_again(tmp_path, folder):
    path = tmp_path / "run" / "store.sqlite"
    with Store(path) as store:
        store.put(Answer("q", "k1", "one"), ASK, "m")
        if folder:
            shutil.rmtree(path.parent)
        else:
            path.unlink()
        with pytest.raises(StoreError, match=r"was removed, .* its answers are in .*/run/store.sqlite: run the same"):
            store.put(Answer("q", "k2"), ASK, "m")
    with Store(path) as store:
        assert store.get("k1").text == "one" and store.get("k2") is None
        path.rename(tmp_path / "moved")
        path.write_bytes(b"another file")
        with pytest.raises(
            StoreError, match=r"its answers are in .*: rename it to store.sqlite, and run the same"
        ) as told:
            store.put(Answer("q", "k2"), ASK, "m")
    assert path.read_bytes() == b"another file"
    with Store(str(told.value).partition("are in ")[2].partition(": ")[0]) as store:
        assert store.get("k1").text == "one"
