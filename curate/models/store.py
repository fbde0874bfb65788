"""The response store: one row for every call that ended, in sqlite. It is the unit of resume.

A row is committed before its answer is handed on, so a process killed at any point has lost no more than the calls in
flight. Several processes may share one file.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex

from curate.models.asking import Answer, Ask
from engine.errors import InputError, first_line

_COLUMNS = (
    "key",
    "text",
    "reasoning",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "reported_model",
    "error",
    "detail",
)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, reasoning TEXT NOT NULL, finish_reason TEXT, prompt_tokens INTEGER,
    completion_tokens INTEGER, reasoning_tokens INTEGER, reported_model TEXT NOT NULL, error TEXT,
    detail TEXT NOT NULL, ask_id TEXT NOT NULL, prompt_version TEXT NOT NULL, sampling TEXT NOT NULL,
    model TEXT NOT NULL, tries INTEGER NOT NULL, seconds REAL NOT NULL, finished REAL NOT NULL
) WITHOUT ROWID
"""
BUSY_S = 60.0
"""Seconds that a writer waits for another process's."""


_WAYS_OUT = {
    "FULL": "make room",
    "BUSY": "wait for the process that holds it",
    "LOCKED": "wait for the process that holds it",
    "READONLY": "make the file and its folder writable",
    "CANTOPEN": "make the file and its folder writable, and make room",
    "PERM": "make the file and its folder writable",
    "NOTADB": "move the file away",
    "CORRUPT": "move the file away",
}
"""What to do about sqlite's errors, by the names of their kinds; about the others, see to the disk."""


class StoreError(OSError):
    """The store cannot be read or written. The message names the file and the way out; what is in it stays."""


@dataclass(frozen=True)
class Totals:
    """What the calls to one model came to. `seconds` is summed over calls, which overlap."""

    model: str
    calls: int
    errors: int
    tries: int
    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """Requests split by what the store knows: `known` answers, and `todo`: each key once, with all that wait for it."""

    known: list[Answer]
    todo: dict[str, list[Ask]]

    def answers(self, answer: Answer) -> Iterator[Answer]:
        """`answer` for everyone who asked with its key."""
        for request in self.todo[answer.key]:
            yield replace(answer, id=request.id)


class Store(AbstractContextManager["Store", None]):
    """Responses by key. Use it as a context manager; safe from any thread."""

    def __init__(self, path: str | Path, retry_errors: bool = False) -> None:
        """Opens or makes the file. With `retry_errors`, rows that are errors count as not asked.

        Raises:
            InputError: the file is no response store.
            StoreError: it cannot be opened. Every method may raise it.
        """
        self.path = Path(path)
        self._retry_errors = retry_errors
        self._lock = threading.Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._told():
            self._db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            with self._told():
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute(
                    "PRAGMA synchronous=NORMAL"
                )  # survives any kill of ours; a power cut may cost the tail
                self._db.execute(_SCHEMA)
                self._db.execute(f"SELECT {', '.join(_COLUMNS)} FROM responses LIMIT 1")
            self._file = self.path.stat()
        except BaseException as error:
            self._db.close()
            cause = error.__cause__
            if isinstance(cause, sqlite3.Error) and _kind(cause) in ("NOTADB", "CORRUPT", "ERROR"):
                raise InputError(
                    f"{self.path} is no response store ({first_line(cause)}); move it away or name another file"
                ) from None
            raise

    def __exit__(self, *exc: object) -> None:
        with self._lock, self._told():
            self._db.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Says in a StoreError what sqlite does not do."""
        try:
            yield
        except sqlite3.Error as error:
            way = _WAYS_OUT.get(_kind(error), "see to the disk")
            raise StoreError(
                f"{self.path}: {first_line(error)}; {way} and run the same command: what had been answered is kept"
            ) from error

    def _require_place(self) -> None:
        """Raises StoreError where the file was removed, moved or replaced meanwhile, once its answers are under its
        name again, or beside it where another file has the name."""
        with suppress(FileNotFoundError, NotADirectoryError):
            if os.path.samestat(self.path.stat(), self._file):
                return
        copy, way = self.path, "run the same command"
        if os.path.lexists(copy):
            copy, way = copy.with_name(f"{copy.name}.{token_hex(4)}"), f"rename it to {copy.name}, and {way}"
        else:
            copy.parent.mkdir(parents=True, exist_ok=True)
            for leftover in ("-wal", "-shm"):  # of the file that has gone: they would be taken for the copy's
                copy.with_name(copy.name + leftover).unlink(missing_ok=True)
        with closing(sqlite3.connect(copy)) as written:
            self._db.backup(written)
        raise StoreError(
            f"{self.path} was removed, moved or replaced while it was in use; its answers are in {copy}: {way}"
        )

    def get(self, key: str) -> Answer | None:
        """The stored answer of a call (its `id` is the first asker's), or None."""
        wanted = "key = ? AND error IS NULL" if self._retry_errors else "key = ?"
        with self._lock, self._told():
            row = self._db.execute(
                f"SELECT ask_id, {', '.join(_COLUMNS)} FROM responses WHERE {wanted}", (key,)
            ).fetchone()
        return None if row is None else Answer(*row)

    def plan(self, requests: Iterable[Ask], identity: str) -> Plan:
        """What of `requests` to the model `identity` is known, and what is to be asked."""
        plan = Plan([], {})
        for request in requests:
            key = request.key(identity)
            if key not in plan.todo and (found := self.get(key)) is not None:
                plan.known.append(replace(found, id=request.id))
            else:
                plan.todo.setdefault(key, []).append(request)
        return plan

    def put(self, answer: Answer, ask: Ask, model: str, tries: int = 1, seconds: float = 0.0) -> None:
        """Keep an answer, in place of an earlier one with its key. Committed when this returns."""
        self.put_all([(answer, ask)], model, tries, seconds)

    def put_all(self, answers: Sequence[tuple[Answer, Ask]], model: str, tries: int = 1, seconds: float = 0.0) -> None:
        """Keep answers that came together, in one transaction. Committed when this returns."""
        about = [model, tries, seconds, time.time()]
        rows = [
            [*(getattr(answer, name) for name in _COLUMNS), ask.id, ask.prompt_version, ask.sampling.canonical, *about]
            for answer, ask in answers
        ]
        with self._lock, self._told():
            self._require_place()
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:  # commits, or takes it back
                self._db.executemany(f"INSERT OR REPLACE INTO responses VALUES ({', '.join('?' * len(rows[0]))})", rows)

    def errors(self) -> list[tuple[str, str, str, str]]:
        """(model, id of the request, error, detail) of every call that ended with an error."""
        with self._lock, self._told():
            return self._db.execute(
                "SELECT model, ask_id, error, detail FROM responses WHERE error IS NOT NULL ORDER BY model, ask_id, key"
            ).fetchall()

    def totals(self) -> list[Totals]:
        """Sums per model, for the report."""
        with self._lock, self._told():
            return [
                Totals(*row)
                for row in self._db.execute(
                    "SELECT model, count(*), sum(error IS NOT NULL), sum(tries), ifnull(sum(prompt_tokens), 0),"
                    " ifnull(sum(completion_tokens), 0), ifnull(sum(reasoning_tokens), 0), total(seconds)"
                    " FROM responses GROUP BY model ORDER BY model"
                )
            ]


def _kind(error: sqlite3.Error) -> str:
    """FULL, BUSY, IOERR, ...: the primary kind of an error's code; ERROR where it has none."""
    return getattr(error, "sqlite_errorname", "SQLITE_ERROR").split("_")[1]
