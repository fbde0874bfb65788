"""Some tests of engine, operators and trainer at every level below this processor's best; all: `make test-levels`."""

import pytest

from kernels.native import library as native
from tests.levels import FORCED, missing, run

PART = (
    "tests/engine/test_model.py",
    "tests/kernels/test_definitions.py",
    "tests/kernels/test_quantize.py",
    "tests/conformance/test_rules_budget.py",
    "tests/train/test_trainer_lora.py",
    "tests/train/test_trainer_parity.py",
)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("level", FORCED)
def test_a_lesser_processor_passes_too(level: str) -> None:
    if why := missing(level) or (f"the suite itself runs at {level}" if level == native.LEVEL else ""):
        pytest.skip(why)
    done = run(level, ["-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow", *PART], capture_output=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
