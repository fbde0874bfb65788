"""Exploring one target for some seconds, in a process that may die of it."""

import faulthandler
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.database import DirectoryBasedExampleDatabase

from tests.fuzz.contract import BYTES
from tests.fuzz.server import Reply
from tests.fuzz.target import Target

KEPT = ".hypothesis/fuzz"
"""Cases that failed, in the working directory."""
HANGS_S, WAITS_S = 15.0, 300.0
"""Seconds of processor time, and of wall time, after which a case is ended with its process: a busy machine is no
finding."""
_BATCH = 100
_NAMES = {"inf": float("inf"), "nan": float("nan"), "Reply": Reply}
"""What the text of a case may hold besides literals."""


def explore(target: Target, seconds: float) -> None:
    """Run cases of `target` and print how many, and each finding with the smallest case that shows it.

    Ends the process, by whatever means, where a case hangs or takes more than its memory; the case then stays in
    `KEPT`, and is run first by the next call.
    """
    folder = Path(KEPT, target.name)
    folder.mkdir(parents=True, exist_ok=True)
    current, ends, count = folder / f"killed-{os.getpid()}.txt", time.monotonic() + seconds, 0
    failed: list[Any] = []
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES,) * 2)

    def run(case: Any) -> None:
        nonlocal count
        if time.monotonic() > ends and not failed:
            return
        current.write_text(repr(case))
        faulthandler.dump_traceback_later(WAITS_S, exit=True)
        signal.setitimer(signal.ITIMER_PROF, HANGS_S)
        count += 1
        try:
            target.run(case)
        except BaseException:
            failed[:] = [case]
            raise
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            faulthandler.cancel_dump_traceback_later()

    faulthandler.register(signal.SIGPROF, chain=True)  # says where, and ends the process
    quiet = settings(
        max_examples=_BATCH,
        database=DirectoryBasedExampleDatabase(folder),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
        phases=[Phase.reuse, Phase.generate, Phase.shrink],
    )
    case: Any = None
    try:
        for kept in sorted(folder.glob("killed-*.txt")):
            if kept != current:
                run(case := eval(kept.read_text(), _NAMES))
                kept.unlink()
        for case in target.known:
            run(case)
        while time.monotonic() < ends:
            quiet(given(target.cases)(run))()
    except Exception as error:
        text = repr(failed[0] if failed else case)
        (folder / "smallest.txt").write_text(text)
        error.__notes__ = []  # hypothesis shows the whole case there, however long
        where = "".join(traceback.format_exception(error, limit=-6)).strip()
        print(f"FINDING after {count} cases, {text[:600]}\n({folder / 'smallest.txt'})\n{where[-2500:]}")
    else:
        print(f"{count:,} cases")
    current.unlink(missing_ok=True)
    sys.stdout.flush()
    os._exit(0)  # threads of engines and servers have nothing to say any more
