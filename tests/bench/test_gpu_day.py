"""The GPU day: whatever becomes of a part, the others' results stay, what it held is free, and the next call goes on.

The parts here are small programs that misbehave; `test_rehearsal` runs the real ones.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from bench import gpu_day, processes
from bench.checkpoints import checkpoint
from bench.gpu.files import GEMM_TABLE, LOG, MOST_FILES, RESULTS, STATE
from bench.gpu.plan import Part
from bench.gpu_day import Options, Outcome
from bench.record import ROOT
from bench.shapes import SHAPES
from engine.errors import InputError

PROGRAMS = {
    "raises": "raise RuntimeError('no such luck')",
    "hangs": """
        import subprocess, time
        print('child', subprocess.Popen(['sleep', '60'], start_new_session=True).pid, flush=True)
        time.sleep(60)""",
    "waits": """
        import os, sys, time
        open(sys.argv[sys.argv.index('--output') + 1], 'a').write('{"of": "waits"}\\n')
        time.sleep(0.5)
        print('pid', os.getpid(), flush=True)
        time.sleep(60)""",
    "hungry": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))\nx = bytearray(2**30)",
    "tells": """
        import os, sys
        file = sys.argv[sys.argv.index('--output') + 1]
        open(file, 'a').write('{"of": "%s"}\\n' % os.environ.get("SAYS", "tells"))""",
    "tears": """
        import os, sys
        open(sys.argv[sys.argv.index('--output') + 1], 'a').write('{"of": "tears"}\\n{"of": "te')
        os.kill(os.getpid(), 9)""",
    "litters": """
        import sys
        folder = __import__('pathlib').Path(sys.argv[sys.argv.index('--output') + 1]).parent
        for number in range(12):
            (folder / f'a{number}.png').write_bytes(b'x')""",
    "deletes": """
        import pathlib, shutil, sys, time
        file = pathlib.Path(sys.argv[sys.argv.index('--output') + 1])
        file.write_text('{"of": "deletes"}\\n')
        time.sleep(0.3)
        shutil.rmtree(file.parent)""",
    "garbles": """
        import sys
        open(sys.argv[sys.argv.index('--output') + 1], 'ab').write(b'{"of": "de\\n\\xff\\n{"of": "garbles"}\\n')""",
    "bold": "raise SystemExit('[/bold] boom [red]')",
    "chatters": "for number in range(100):\n    print('line', number)\nraise SystemExit('the end')",
}


@pytest.fixture
def part(tmp_path, monkeypatch):
    """Makes parts of the programs above, importable by the processes that run them."""
    folder = tmp_path / "programs"
    folder.mkdir()
    for name, text in PROGRAMS.items():
        lines = text.strip("\n").split("\n")
        indent = len(lines[0]) - len(lines[0].lstrip())
        (folder / f"part_{name}.py").write_text("\n".join(line[indent:] for line in lines) + "\n")
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{ROOT}")

    def make(name: str, limit: float = 60, **more: object) -> Part:
        return Part(name, f"part_{name}", (), limit, **more)  # type: ignore[arg-type]

    return make


@pytest.fixture
def options(tmp_path):
    def make(**more: object) -> Options:
        return Options(**{"out": tmp_path / "out", "state": tmp_path / "state", **more})  # type: ignore[arg-type]

    return make


def run(options: Options, console: Console, parts: tuple[Part, ...], card: str = "H100") -> list[Outcome]:
    return gpu_day.run(options, console, parts, card)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def lines(folder: Path) -> list[str]:
    return [json.loads(line)["of"] for line in (folder / RESULTS).read_text().splitlines()]


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_whatever_becomes_of_a_part_the_others_results_stay(part, options, tmp_path):
    console = quiet()
    parts = (part("raises"), part("hangs", 1.0), part("hungry"), part("missing"), part("tears"), part("tells"))
    outcomes = run(options(), console, parts)
    assert [one.state for one in outcomes] == ["failed", "out of time", "failed", "failed", "failed", "done"]
    assert "no such luck" in outcomes[0].why and "MemoryError" in outcomes[2].why
    assert "No module named part_missing" in outcomes[3].why and "SIGKILL" in outcomes[4].why
    log = (tmp_path / "out" / LOG).read_text()
    assert not alive(int(log.partition("child")[2].split()[0])), "what the hung part started still runs"
    assert lines(tmp_path / "out") == ["tears", "tells"], "half a line stayed, or a whole one is gone"
    again = run(options(), quiet(), parts)
    assert again[-1].state == "done before" and lines(tmp_path / "out") == ["tears", "tells", "tears"]


HOLDS = """
import json, sys, time
from pathlib import Path
from bench.peers.worker import Setup, Worker
setup = Setup(checkpoint={folder!r}, dtype="float32", device="cpu", threads=1, max_model_len=64, max_num_seqs=1,
              dummy=False)
worker = Worker("engine_worker.py", setup, Path({log!r}))
print("worker", worker._process.pid, flush=True)
time.sleep(120)
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_workers_of_a_part_end_with_it(part, options, tmp_path, monkeypatch):
    """A benchmark's engine runs in a process group of its own, stopped between its turns: it would keep its memory of
    the card, and spoil what comes next."""
    folder = checkpoint(tmp_path, SHAPES["tiny"])
    program = HOLDS.format(folder=str(folder), log=str(tmp_path / "worker.log"))
    (tmp_path / "programs" / "part_holds.py").write_text(program)
    day, log, start = gpu_day.Day(options(), quiet(), "H100"), tmp_path / "out" / LOG, gpu_day._start
    processes.adopt_orphans()

    def until_its_worker_runs(*given):  # so that the limit ends it while its worker is there, however slow the start is
        process, deadline = start(*given), time.monotonic() + 100
        while b"worker" not in log.read_bytes() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return process

    monkeypatch.setattr(gpu_day, "_start", until_its_worker_runs)
    outcome = gpu_day.run_part(part("holds", 0.2), options(), day, 60)
    assert outcome.state == "out of time", log.read_text()
    pid = int(log.read_text().rpartition("worker")[2].split()[0])
    assert not alive(pid)


def test_the_last_lines_of_a_failed_part_are_printed(part, options):
    console = quiet()
    outcomes = run(options(), console, (part("chatters"),))
    printed = console.file.getvalue()
    assert "line 99" in printed and "line 10\n" not in printed and outcomes[0].why == "exit code 1: the end"


DAY = """
import io, sys
from pathlib import Path
from rich.console import Console
from bench.gpu.plan import Part
from bench.gpu_day import Options, run
parts = tuple(Part(name, "part_" + name, (), 60) for name in sys.argv[3:])
run(Options(out=Path(sys.argv[1]), state=Path(sys.argv[2])), Console(file=io.StringIO()), parts, "H100")
"""


def test_a_call_that_is_killed_loses_nothing(part, options, tmp_path):
    """Also of the part that it was in, and leaves nothing behind; the folder of the results may be emptied besides."""
    out, state = tmp_path / "out", tmp_path / "state"
    command = [sys.executable, "-c", DAY, str(out), str(state), "tells", "waits"]
    day = subprocess.Popen(command, cwd=ROOT)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not ((out / LOG).exists() and "pid" in (out / LOG).read_text()):
        time.sleep(0.05)
    waiting = int((out / LOG).read_text().partition("pid")[2].split()[0])
    day.send_signal(signal.SIGKILL)
    day.wait()
    while time.monotonic() < deadline and alive(waiting):
        time.sleep(0.05)
    assert not alive(waiting), "the part goes on without the day, and would hold the card"
    assert lines(out) == ["tells", "waits"] and json.loads((out / STATE).read_text())["done"] == {"H100": ["tells"]}
    for file in out.iterdir():
        file.unlink()
    outcomes = run(options(), quiet(), (part("tells"),))
    assert outcomes[0].state == "done before" and lines(out) == ["tells", "waits"]


def test_what_a_part_does_to_the_results_costs_its_own_alone(part, options, tmp_path):
    """It may remove them with their folder, or write what is no record, which no later part could read."""
    parts = (part("tells"), part("deletes"), part("garbles"), part("bold"), Part("last", "part_tells", (), 60))
    console = quiet()
    outcomes = run(options(), console, parts)
    assert [one.state for one in outcomes][2:] == ["done", "failed", "done"]
    assert lines(tmp_path / "out") == ["tells", "garbles", "tells"] == lines(tmp_path / "state")
    assert "[/bold] boom [red]" in console.file.getvalue()


@pytest.mark.parametrize("state", ['{"done": ["tells"]}', '{"done": {"H1', "[]"])
def test_a_state_that_cannot_be_read_counts_for_nothing(part, options, tmp_path, state):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / STATE).write_text(state)
    console = quiet()
    assert [one.state for one in run(options(), console, (part("tells"),))] == ["done"]
    assert f"{STATE} cannot be read" in console.file.getvalue().replace("\n", " ")
    assert json.loads((tmp_path / "out" / STATE).read_text())["done"] == {"H100": ["tells"]}


def test_again_that_fails_is_not_done_any_more(part, options, tmp_path):
    run(options(), quiet(), (part("tells"),))
    again = options(again=True)
    assert run(again, quiet(), (Part("tells", "part_raises", (), 60),))[0].state == "failed"
    assert run(options(), quiet(), (part("tells"),))[0].state == "done"


@pytest.mark.parametrize(
    "more, message",
    [
        ({"minutes": float("nan")}, "--minutes is nan"),
        ({"minutes": -1.0}, "--minutes is -1.0"),
        ({"cache": Path("/nowhere")}, "--cache /nowhere is no folder"),
        ({"resume_from": Path("/nowhere")}, "--resume-from /nowhere is no folder"),
        ({"out": Path("/proc/nowhere")}, "--out /proc/nowhere cannot be"),
        ({"only": ("tokens", "others")}, "--only has others; parts are ceilings, compile"),
    ],
)
def test_bad_flags_are_one_line(more, message, options):
    with pytest.raises(InputError, match=message) as error:
        gpu_day.main(options(rehearse="H100", **more))
    assert "\n" not in str(error.value)


def test_the_state_is_not_among_what_comes_back(options, tmp_path):
    for state in (tmp_path / "out", tmp_path / "out" / "state"):
        with pytest.raises(InputError, match=r"--state .* lies in --out"):
            gpu_day.main(options(rehearse="H100", state=state))


def test_a_new_machine_goes_on_from_the_files_of_an_earlier_call(part, options, tmp_path, monkeypatch):
    run(options(), quiet(), (part("tells"),))
    came_back, there = tmp_path / "out", tmp_path / "there"
    monkeypatch.setenv("SAYS", "there")
    second = part("tells")
    elsewhere = options(out=there, state=tmp_path / "there-state", resume_from=came_back)
    outcomes = run(elsewhere, quiet(), (second, Part("more", "part_tells", (), 60)))
    assert [one.state for one in outcomes] == ["done before", "done"] and lines(there) == ["tells", "there"]
    # a call whose files did not come back, after one whose files did: what both know is there once
    again = run(options(out=tmp_path / "third", state=tmp_path / "there-state", resume_from=came_back), quiet(), ())
    assert again == [] and lines(tmp_path / "third") == ["tells", "there"]


def test_not_more_files_than_may_come_back(part, options, tmp_path):
    console = quiet()
    run(options(), console, (part("tells"), part("litters"), part("raises")))
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert len(names) == MOST_FILES and {RESULTS, LOG, STATE} <= names
    assert len(list((tmp_path / "state" / "left out").iterdir())) == 12 - (MOST_FILES - 3)
    assert "7 files too many to come back" in console.file.getvalue() and lines(tmp_path / "out") == ["tells"]


def test_what_is_too_long_to_come_back_keeps_its_end(part, options, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_day, "MOST_BYTES", 400)
    run(options(), quiet(), (part("chatters"),))
    log = (tmp_path / "out" / LOG).read_text()
    assert len(log) <= 400 and log.endswith("the end\n") and log.startswith("line")


def test_what_does_not_fit_the_minutes_is_left_for_the_next_call(part, options):
    outcomes = run(options(minutes=0.01), quiet(), (part("raises"),))
    assert outcomes[0].state == "not started" and "again" in outcomes[0].why
    # a part that goes on where it was is worth a minute; one that begins anew is not
    outcomes = run(options(minutes=1.1), quiet(), (part("tells", 200), part("raises", 200, resumes=False)))
    assert [one.state for one in outcomes] == ["done", "not started"]


def test_only_runs_what_is_named(part, options):
    assert run(options(only=("other",)), quiet(), (part("raises"),)) == []


def test_what_is_done_on_one_card_is_not_done_on_another(part, options, tmp_path, monkeypatch):
    """Nor what was rehearsed; lines of all stay."""
    parts = (part("tells"),)
    for card in ("rehearsal of H100", "H100", "H200"):
        monkeypatch.setenv("SAYS", card)
        assert [one.state for one in run(options(), quiet(), parts, card)] == ["done"], card
        assert [one.state for one in run(options(), quiet(), parts, card)] == ["done before"], card
    assert len(lines(tmp_path / "out")) == 3
    brought = options(out=tmp_path / "there", state=tmp_path / "there-state", resume_from=tmp_path / "out")
    assert [one.state for one in run(brought, quiet(), parts, "H200")] == ["done before"]


def test_what_was_brought_takes_nothing_from_what_is_there(part, options, tmp_path):
    """However new its files look: the copies of a warm machine know more than what came back from an earlier call."""
    run(options(), quiet(), (part("tells"),))
    earlier = tmp_path / "earlier"
    shutil.copytree(tmp_path / "out", earlier)
    run(options(), quiet(), (Part("second", "part_tells", (), 60),))
    for name in (STATE, LOG, RESULTS):
        os.utime(earlier / name, (2e9, 2e9))
        (tmp_path / "out" / name).unlink()
    parts = (part("tells"), Part("second", "part_tells", (), 60))
    outcomes = run(options(resume_from=earlier), quiet(), parts)
    assert [one.state for one in outcomes] == ["done before"] * 2
    assert "second" in (tmp_path / "out" / LOG).read_text()


def test_again_runs_what_is_done_from_its_start(part, options, tmp_path):
    run(options(), quiet(), (part("tells"), part("raises")))
    outcomes = run(options(only=("tells",), again=True), quiet(), (part("tells"), part("raises")))
    assert [(one.part, one.state) for one in outcomes] == [("tells", "done")]
    assert lines(tmp_path / "out") == ["tells"] * 2
    day = gpu_day.Day(options(), quiet(), "H100")
    assert "--resume" not in gpu_day.command_of(part("tells"), options(again=True), day)[0]


def test_a_part_waits_for_the_one_that_it_needs(part, options):
    needs = part("tells", after="raises")
    outcomes = run(options(), quiet(), (part("raises"), needs))
    assert [one.state for one in outcomes] == ["failed", "not started"] and "raises comes first" in outcomes[1].why


def test_a_process_that_cannot_be_killed_ends_the_day(part, options, monkeypatch):
    """As one does that waits for a driver: the card is not free for the next part, and the call has an end."""
    kill = os.kill
    monkeypatch.setattr(gpu_day, "_DYING", 0.3)
    monkeypatch.setattr(os, "kill", lambda pid, number: None)
    outcomes = run(options(), quiet(), (part("hangs", 1.5), part("tells")))
    monkeypatch.setattr(os, "kill", kill)
    assert [one.state for one in outcomes] == ["stuck"] and "cannot be killed" in outcomes[0].why
    assert gpu_day._end_all(set()) == set()


def test_parts_are_told_where_the_results_and_tables_are(options, tmp_path):
    day = gpu_day.Day(options(), quiet(), "H100")
    peer = Part("peers", "bench.decode", ("--against", "transformers"), 1, peers=True)
    tuned = Part("tuned", "m", ("--table", "{out}/" + GEMM_TABLE), 1, environment={"S1_GEMM_TABLE": "{out}/t"})
    arguments, environment = gpu_day.command_of(peer, options(peer_python="py"), day)
    assert arguments[3:6] == ["vllm", "--peer-python", "py"] and arguments[-1] == "--resume"
    assert environment["S1_CEILINGS"] == str(day.results) == arguments[arguments.index("--output") + 1]
    assert environment["TRITON_CACHE_DIR"] == str(tmp_path / "state" / "triton")
    arguments, environment = gpu_day.command_of(tuned, options(), day)
    assert arguments[2] == str(day.out / GEMM_TABLE) and environment["S1_GEMM_TABLE"] == str(day.out / "t")


def test_the_cache_of_the_kit_is_laid_out_once(options, tmp_path):
    (tmp_path / "carried").mkdir()
    (tmp_path / "carried" / "kernel").write_text("x")
    for _ in range(2):
        gpu_day.Day(options(cache=tmp_path / "carried"), quiet(), "H100")
    assert (tmp_path / "state" / "triton" / "kernel").read_text() == "x"


def test_without_a_gpu_the_day_says_what_can_be_done(tmp_path):
    without = os.environ | {"PATH": str(tmp_path)}  # and so without nvidia-smi
    command = [sys.executable, "-m", "bench.gpu_day"]
    done = subprocess.run(command, cwd=ROOT, env=without, capture_output=True, text=True)
    assert done.returncode == 2 and "--rehearse H100" in done.stderr and "Traceback" not in done.stderr
