"""Ranks trust nobody who does not know their secret; nothing of theirs listens outside loopback, and none is waited for
for ever."""

import ast
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engine.errors import EngineDead, InputError
from engine.messages import decode_commands
from engine.ranks.secret import ranks_secret
from engine.ranks.spawn import SILENT_S, _signals_wait
from tests.engine.ranks import impostors_worker

ROOT = Path(__file__).resolve().parents[2]
GENERATE = [sys.executable, "-m", "engine.generate", "--model", "s1-nano", "--tensor-parallel-size", "2"]
OBJECTS = {"all_gather_object", "broadcast_object_list", "gather_object", "scatter_object_list", "send_object_list"}
NAMESPACE = """ip link set lo up && ip link add d0 type veth peer name d1 && ip addr add 10.77.0.1/24 dev d0 &&
ip link set d0 up && ip link set d1 up && exec "$@" """


def test_no_source_unpickles_anything() -> None:
    """Neither by name nor by the collectives of torch.distributed that do it inside."""
    for package in ("engine", "kernels", "train", "curate", "bench"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
                names += [node.attr] if isinstance(node, ast.Attribute) else []
                used = {"pickle", "marshal", "shelve", "dill", "cloudpickle", *OBJECTS}.intersection(names)
                assert not used, f"{path}: {used}; ranks exchange MessagePack and JSON only"


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x92\x91\x01\xc2", b"\x80\x04]\x94.", b"\x92\x90\xc2x"])
def test_commands_are_data(data: bytes) -> None:
    with pytest.raises(EngineDead, match="are no commands"):
        decode_commands(data)


def intrusion(tmp_path: Path, command: list[str]) -> dict[str, object]:
    """What a stranger meets at the command, on an interface of its own where the system allows one to be made."""
    namespace = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", NAMESPACE, "sh"]
    allowed = subprocess.run([*namespace, "true"], capture_output=True).returncode == 0
    addresses = "127.0.0.2,::1" + (",10.77.0.1" if allowed else "")
    intruder = [sys.executable, "-m", "tests.engine.intruder", str(tmp_path / "marker"), addresses, "--", *command]
    run = subprocess.run(
        [*namespace, *intruder] if allowed else intruder, capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, object] = json.loads(run.stdout)
    return found


def test_a_stranger_does_not_get_in(tmp_path: Path) -> None:
    """From the first socket on, while the ranks come together and while they run."""
    found = intrusion(tmp_path, [*GENERATE, "--prompt", "How many r in raspberry?", "--thinking-token-budget", "16"])
    assert found["listening"] == ["127.0.0.1"] and found["reached"] == ["127.0.0.1"], found
    assert not found["got in"] and "Traceback" not in str(found["err"]), found
    # It may have taken a rank's place, and then the run ends; what it never gets is an answer that it had a part in.
    assert found["code"] == 0 or "start the run again" in str(found["err"]), found


def test_an_impostor_does_not_pass_for_a_rank(tmp_path: Path) -> None:
    """It knows where the ranks meet and takes a seat there, but not the secret: each sees it at once."""
    context = multiprocessing.get_context("spawn")
    said = context.SimpleQueue()
    ranks = context.Process(target=impostors_worker, args=(str(tmp_path / "store"), said))
    ranks.start()
    for rank in sorted(said.get() for _ in range(2)):
        assert rank[1] == (
            f"rank {rank[0]} of 2: what answers as rank {1 - rank[0]} does not know the ranks' secret; if it is one of "
            "yours, set S1_RANKS_SECRET to the same text for all"
        )
    ranks.join()


def test_the_secret_of_this_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S1_RANKS_SECRET", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    secret, path = ranks_secret(one_machine=True), tmp_path / "s1-engine" / "ranks.secret"
    assert ranks_secret(one_machine=True) == secret == path.read_bytes() and len(secret) == 32
    assert path.stat().st_mode & 0o777 == 0o600 and list(path.parent.iterdir()) == [path]
    with pytest.raises(InputError, match="set S1_RANKS_SECRET to the same random text on each of them"):
        ranks_secret(one_machine=False)
    path.chmod(0o644)
    with pytest.raises(InputError, match="is not this user's alone, or not whole; remove it"):
        ranks_secret(one_machine=True)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    with monkeypatch.context() as nobody, pytest.raises(InputError, match=r"cannot be kept in ~/\.cache/s1-engine"):
        nobody.setattr(os, "getuid", lambda: 2**30)  # whom no list of users has
        ranks_secret(one_machine=True)
    monkeypatch.setenv("S1_RANKS_SECRET", "secret")
    with pytest.raises(InputError, match="has 6 characters; give at least 16"):
        ranks_secret(one_machine=True)
    monkeypatch.setenv("S1_RANKS_SECRET", "0123456789abcdef")
    assert ranks_secret(one_machine=False) == b"0123456789abcdef"


def test_signals_wait_until_all_ranks_are_started() -> None:
    done, mask = False, signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with pytest.raises(KeyboardInterrupt), _signals_wait():
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())  # as the ranks begin
        done = True
    assert done and signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_group_that_nobody_closes_leaves_nothing(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import time\nfrom engine.ranks.spawn import spawn_ranks\n\n\ndef rank(group):\n    group.barrier()\n"
        "    time.sleep(600)\n\n\nif __name__ == '__main__':\n    spawn_ranks(2, rank).barrier()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    ended = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert not list(tmp_path.glob("s1-ranks-*"))


def test_a_stopped_rank_is_named_and_the_first_interrupt_answers(tmp_path: Path) -> None:
    """What had finished is in the file; nobody waits for the rank that does not answer."""
    params = [{"max_tokens": 16}, {"ignore_eos": True}]
    lines = [json.dumps({"prompt": "How many r in raspberry?", "params": each}) + "\n" for each in params]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    output = tmp_path / "out.jsonl"
    command = [*GENERATE, "--input", str(tmp_path / "in.jsonl"), "--output", str(output)]
    run, said = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT), ""

    def wait_for(text: str) -> None:
        nonlocal said
        assert run.stderr is not None
        while text not in said:
            line = run.stderr.readline()
            assert line, f"it ended and did not say {text!r}: {said}"
            said += line

    try:
        wait_for("of weights per step")
        children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        rank = next(int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())
        os.kill(rank, signal.SIGSTOP)
        wait_for(f"rank 1 (process {rank}) has been silent for {SILENT_S:.0f} s")
        start = time.monotonic()
        run.send_signal(signal.SIGINT)
        rest = run.communicate(timeout=60)[1]
        # Five seconds are promised; a machine that is busy with other things is given more.
        assert time.monotonic() - start < 15
        assert run.returncode == 130 and "requests are in" in rest and "Traceback" not in rest, rest
    finally:
        run.kill()
    assert not Path(f"/proc/{rank}").exists() or "Z" in Path(f"/proc/{rank}/stat").read_text()
    assert all(json.loads(line) for line in output.read_text().splitlines())
