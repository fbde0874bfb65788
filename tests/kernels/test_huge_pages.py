"""Memory that is cut from large mappings: tensors of their own, given back with the last of a mapping."""

import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import huge_pages
from kernels.paged import new_pages

SIZES = st.integers(0, 3 * 2**20) | st.sampled_from([2**21, 2**22, 2**22 + 1, 2**24, 2**24 + 64])


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(SIZES, min_size=1, max_size=12))
def test_tensors_are_aligned_and_their_own(sizes: list[int]):
    tensors = [huge_pages.empty((size,), torch.uint8).fill_(i) for i, size in enumerate(sizes)]
    for i, (size, tensor) in enumerate(zip(sizes, tensors, strict=True)):
        assert tensor.shape == (size,) and (tensor == i).all()
        assert size == 0 or tensor.data_ptr() % 64 == 0


def test_shapes_and_dtypes():
    found = huge_pages.empty((3, 0, 5), torch.bfloat16), huge_pages.empty((3, 4, 5), torch.bfloat16)
    assert [(t.shape, t.dtype, t.is_contiguous()) for t in found] == [
        ((3, 0, 5), torch.bfloat16, True),
        ((3, 4, 5), torch.bfloat16, True),
    ]
    assert huge_pages.empty((2,), torch.float32, torch.device("meta")).device.type == "meta"


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the mappings from /proc")
def test_what_is_brief_shares_no_mapping():
    """Freed between two that stay, its memory is no longer the process's."""
    kept, gone, other = (huge_pages.empty((2**18,), torch.uint8, brief=i == 1).fill_(i) for i in range(3))
    address = gone.data_ptr()
    assert any(low <= address < high for low, high in mappings())
    del gone
    assert not any(low <= address < high for low, high in mappings())
    assert (kept == 0).all() and (other == 2).all()


def mappings() -> list[tuple[int, int]]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [(int(low, 16), int(high, 16)) for low, high in (x.split()[0].split("-") for x in lines)]


def resident() -> float:
    """MiB of memory that holds no file."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads RssAnon from /proc")
@pytest.mark.parametrize("shape", [(2**20, 2, 16, 4), (7, 2, 16, 4)])
def test_a_cache_holds_zeros_and_takes_no_memory_before_it_is_written(shape: tuple[int, int, int, int]):
    """A model folder decides how many pages are wanted."""
    gone = [huge_pages.empty((2**20,), torch.uint8).fill_(1) for _ in range(9)]
    gone.clear()
    before = resident()
    (keys, values), *others = new_pages(3, shape, torch.bfloat16, torch.device("cpu"))
    assert resident() - before < 40
    assert not keys[-7:].any() and not values[:7].any() and len(others) == 2


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads RssAnon from /proc")
def test_pages_that_are_written_take_their_own_memory_in_all_layers_together():
    before, layers = resident(), 40
    cache = new_pages(layers, (400, 4, 64, 64), torch.bfloat16, torch.device("cpu"))
    for keys, values in cache:
        keys[1:3], values[1:3] = 1, 2
    assert resident() - before < 2 * layers * 2 * 4 * 64 * 64 * 2 / 2**20 + 8
    assert all(bool((keys[:4].sum((1, 2, 3)) > 0).tolist() == [False, True, True, False]) for keys, _ in cache)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads RssAnon from /proc")
@pytest.mark.parametrize("mib", [1, 40])
def test_memory_goes_back_with_the_last_tensor(mib: int):
    before = resident()
    tensors = [huge_pages.empty((mib * 2**20,), torch.uint8).fill_(1) for _ in range(160 // mib)]
    assert resident() - before > 120
    tensors.clear()
    assert resident() - before < 40


def test_threads_never_share_a_byte():
    """Engines are made in any thread."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = [*pool.map(lambda _: huge_pages.empty((1000,), torch.uint8), range(4000))]
    finally:
        sys.setswitchinterval(before)
    places = sorted(tensor.data_ptr() for tensor in found)
    assert all(there - here >= 1000 for here, there in pairwise(places))
