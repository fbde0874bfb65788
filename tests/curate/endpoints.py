"""The fake endpoint as tests start it."""

import json
import subprocess
import sys
from pathlib import Path


class Endpoint:
    """The fake endpoint's process and its log."""

    def __init__(self, log: Path) -> None:
        self.log = log
        command = [sys.executable, str(Path(__file__).with_name("fake_endpoint.py")), str(log)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}/v1"

    def calls(self, model: str) -> list[dict]:
        text = self.log.read_text() if self.log.exists() else ""
        # What follows the last newline is a line that is being written.
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        return [line for line in lines if line["model"] == model]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
