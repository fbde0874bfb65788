"""What a profile counts: the kernels of steps in which all decode, and nothing of the prompts."""

import pytest

from bench import profile
from bench.checkpoints import checkpoint
from bench.decode import Case, prompts
from bench.profile import Spent, spent
from bench.shapes import SHAPES
from engine import Engine, InputError


def test_totals_by_hand():
    """Two streams: b lies within a, c overlaps a's end by 1."""
    totals, filled = spent([("c", 9, 14), ("a", 0, 10), ("b", 2, 5), ("a", 20, 21)])
    assert totals == [Spent("a", 2, 11), Spent("c", 1, 5), Spent("b", 1, 3)] and filled == 15


def test_no_prefill_is_counted(tmp_path):
    """Prompts of 300 tokens in chunks of 64 take 15 steps, which run other operators than a step of rows alone:
    what is counted of a step depends neither on their length nor on how many steps there are."""
    folder = checkpoint(tmp_path, SHAPES["tiny"])
    with Engine(folder, device="cpu", max_num_seqs=3, max_model_len=1024, max_num_batched_tokens=64) as engine:
        launches = []
        for context, steps in ((8, 30), (300, 6)):
            case = Case(3, context)
            totals, figures = profile.look(engine, case, prompts(case, 900, []), steps)
            assert figures["steps"] == steps and all(one.count > 0 for one in totals)
            assert figures["kernels_us"] > 0 and figures["gaps_us"] >= 0 and figures["step_us"] > 0
            launches.append(figures["launches"])
    assert launches[0] == pytest.approx(launches[1], rel=0.4), "ends of steps are told a little late"


@pytest.mark.parametrize("cells", [("abc",), ("0x10",), ()])
def test_cells_that_are_none_are_refused(cells):
    with pytest.raises(InputError, match=r"--cells .*; give BATCHxCONTEXT"):
        profile.main(profile.Options(shape="tiny", cells=cells))


def test_too_few_steps_are_said(tmp_path):
    folder = checkpoint(tmp_path, SHAPES["tiny"])
    with (
        Engine(folder, device="cpu", max_num_seqs=1, max_model_len=256) as engine,
        pytest.raises(SystemExit, match="raise --steps"),
    ):
        profile.look(engine, Case(2, 8), prompts(Case(2, 8), 900, []), 4)
