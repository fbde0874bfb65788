"""A stranger on the same machine: `python -m tests.engine.intruder MARKER ADDRESS,... -- COMMAND ...`

Starts the command and, as long as it runs, connects to whatever it and its children listen on, at 127.0.0.1 and at each
address, and says what a rank would say: a number of a Gloo connection, then a pickle that makes the file MARKER. A
second later it leaves. Prints as JSON what was listening, where somebody could connect, and how the command ended.
"""

import ipaddress
import json
import os
import pickle
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path


class Exploit:
    """Runs a command when it is unpickled."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.marker}",)


def family(pid: int) -> list[int]:
    """The process and all that it started."""
    found = [pid]
    for one in found:
        with suppress(OSError):
            for thread in Path(f"/proc/{one}/task").iterdir():
                found.extend(map(int, (thread / "children").read_text().split()))
    return found


def listening(pids: list[int]) -> set[tuple[str, int]]:
    """(address, port) of every TCP socket that one of the processes listens on."""
    inodes = set()
    for pid in pids:
        with suppress(OSError):
            inodes |= {os.readlink(link).removeprefix("socket:[")[:-1] for link in Path(f"/proc/{pid}/fd").iterdir()}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                found.add((str(ipaddress.ip_address(b"".join(words))), int(port, 16)))
    return found


def main() -> None:
    """See above."""
    marker, addresses = sys.argv[1], ["127.0.0.1", *sys.argv[2].split(",")]
    process = subprocess.Popen(sys.argv[4:], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    seen: set[tuple[str, int]] = set()
    reached, held = set(), []
    until = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < until:
        for bound, port in listening(family(process.pid)) - seen:
            seen.add((bound, port))
            for address in addresses:
                for number in range(8):
                    with suppress(OSError):
                        held.append((time.monotonic(), socket.create_connection((address, port), timeout=1)))
                        reached.add(address)
                        held[-1][1].sendall(number.to_bytes(8, "little") + pickle.dumps(Exploit(marker)))
        while held and held[0][0] < time.monotonic() - 1:
            held.pop(0)[1].close()
        time.sleep(0.02)
    process.kill()
    out, err = process.communicate()
    print(
        json.dumps(
            {
                "listening": sorted({address for address, _ in seen}),
                "reached": sorted(reached),
                "code": process.returncode,
                "out": out,
                "err": err,
                "got in": os.path.exists(marker),
            }
        )
    )


if __name__ == "__main__":
    main()
