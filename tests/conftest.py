"""Settings for every test: one thread, so that tests may run side by side. And what was skipped, once a reason."""

import os
import shutil
from collections import Counter

import pytest
import torch

torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in terminalreporter.getreports("skipped"))
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count} skipped: {reason}")


@pytest.fixture(scope="module")
def browser():
    """A real Chromium, of the tests of pages."""
    if os.environ.get("S1_NO_BROWSER"):
        pytest.skip("S1_NO_BROWSER says that there is no browser")
    from playwright.sync_api import sync_playwright  # slow, and few tests need it

    paths = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    assert paths, "there is no Chromium; install one, or set S1_NO_BROWSER to leave these tests out"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=paths[0], args=["--no-sandbox"])
        yield browser
        browser.close()
