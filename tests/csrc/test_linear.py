"""The packed product against its definition, and that a row does not depend on its batch."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kernels.linear import head_reference
from kernels.native import library as native
from kernels.quantize import QuantizedMatrix, decode
from kernels.weights import LinearWeight
from tests.csrc.levels import FLOATS
from tests.rounding import UNIT, assert_within, product, unit

sweep = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
shapes = st.tuples(st.integers(1, 19), st.integers(1, 150), st.integers(1, 90))


def weight(rows: int, cols: int, dtype: torch.dtype, bias: bool = True) -> LinearWeight:
    matrix = torch.randn(rows, cols) / cols**0.5
    return LinearWeight(matrix.to(dtype), torch.randn(rows).to(dtype) if bias else None)


@pytest.mark.parametrize("dtype", FLOATS)
@sweep
@given(shape=shapes, bias=st.booleans(), residual=st.booleans(), seed=st.integers(0, 2**16))
def test_linear(ops: native.Operators, dtype: torch.dtype, shape, bias, residual, seed):
    n, rows, cols = shape
    torch.manual_seed(seed)
    w, x = weight(rows, cols, dtype, bias), torch.randn(n, cols).to(dtype)
    r = torch.randn(n, rows).to(dtype) if residual else None
    assert_within(ops.linear(x, ops.pack(w), r), *product(x, w.weight, w.bias, r, roundings=2))


@pytest.mark.parametrize("dtype", FLOATS)
@sweep
@given(n=st.integers(1, 10), features=st.sampled_from([1, 31, 32, 33, 64, 96]), cols=st.integers(1, 70))
def test_gated_pair(ops: native.Operators, dtype: torch.dtype, n, features, cols):
    w, x = weight(2 * features, cols, dtype, bias=False), torch.randn(n, cols).to(dtype)
    (gate, up), (gate_off, up_off) = (each.chunk(2, 1) for each in product(x, w.weight))
    exact, sizes = F.silu(gate) * up, (gate.abs() + gate_off) * (up.abs() + up_off)
    # silu is never steeper than 1.1 nor larger than its argument; it, the product and half types round anew.
    slack = (8 * UNIT + (0 if dtype is torch.float32 else 3 * unit(dtype))) * sizes
    assert_within(
        ops.linear_silu_mul(x, ops.pack(w)), exact, 1.1 * gate_off * (up.abs() + up_off) + gate.abs() * up_off + slack
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_head_is_float32(ops: native.Operators, dtype: torch.dtype):
    w, x = weight(131, 64, dtype, bias=False), torch.randn(3, 64).to(dtype)
    logits = ops.head(x, ops.pack(w))
    assert logits.dtype == torch.float32
    assert_within(logits, *product(x, w.weight, roundings=0))
    assert_within(head_reference(x, w), *product(x, w.weight))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("rows", "cols"), [(512, 512), (97, 65)])
def test_a_row_has_the_same_bits_in_every_batch(ops: native.Operators, dtype: torch.dtype, rows: int, cols: int):
    w, x = ops.pack(weight(rows, cols, dtype)), torch.randn(70, cols).to(dtype)
    whole = ops.linear(x, w)
    for n in (1, 2, 3, 5, 7, 8, 9, 13, 64):
        assert torch.equal(ops.linear(x[:n], w), whole[:n])
        assert torch.equal(ops.linear(x[-n:], w), whole[-n:])


@pytest.mark.parametrize("dtype", FLOATS)
def test_threads_do_not_change_a_bit(ops: native.Operators, dtype: torch.dtype):
    w, x = ops.pack(weight(500, 300, dtype)), torch.randn(9, 300).to(dtype)
    alone = ops.linear(x, w)
    torch.set_num_threads(2)
    try:
        assert torch.equal(ops.linear(x, w), alone)
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize("dtype", FLOATS)
def test_views(ops: native.Operators, dtype: torch.dtype):
    """Rows that start off any alignment, and rows that do not follow each other."""
    w = weight(40, 33, dtype)
    packed = ops.pack(w)
    unaligned = torch.randn(4 * 33 + 1).to(dtype)[1:].view(4, 33)
    strided = torch.randn(4, 80).to(dtype)[:, 3:36]
    for x in (unaligned, strided):
        assert_within(ops.linear(x, packed), *product(x, w.weight, w.bias))
    assert_within(ops.linear(unaligned, ops.pack(LinearWeight(w.weight[::2]))), *product(unaligned, w.weight[::2]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_no_rows(ops: native.Operators, dtype: torch.dtype):
    assert ops.linear(torch.empty(0, 33, dtype=dtype), ops.pack(weight(40, 33, dtype))).shape == (0, 40)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", FLOATS)
def test_not_finite(ops: native.Operators, dtype: torch.dtype, value: float):
    """What is not finite reaches the outputs it belongs to and no other: neither rows of x nor the padding."""
    w = LinearWeight(torch.rand(37, 33).to(dtype) + 1)
    x = torch.rand(3, 33).to(dtype)
    x[1, 32] = value
    y = ops.linear(x, ops.pack(w))
    assert y[[0, 2]].isfinite().all()
    torch.testing.assert_close(y[1].float(), torch.full((37,), value), equal_nan=True)


@pytest.mark.parametrize("dtype", FLOATS)
def test_int8_weights(ops: native.Operators, dtype: torch.dtype):
    w = weight(67, 129, dtype)
    codes = LinearWeight.of(QuantizedMatrix.of(w.weight, torch.int8), w.bias)
    for tokens in (5, 64):  # a few, and tiles of the most rows
        x = torch.randn(tokens, 129).to(dtype)
        found = ops.linear(x, ops.pack(codes))
        assert codes.scale is not None
        assert_within(found, *product(x, decode(codes.weight, codes.scale), codes.bias))
        assert torch.equal(ops.linear(x[:2], ops.pack(codes)), found[:2])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", [*FLOATS, torch.int8])
def test_packed_where_it_is(ops: native.Operators, kind: torch.dtype, threads: int):
    """Whole panels are packed in the matrix's own memory, to the same bytes; what does not fill them is copied."""
    torch.set_num_threads(threads)
    try:
        for rows, cols, fits in ((96, 70, True), (32, 2, True), (97, 70, False), (96, 71, False)):
            dense = weight(rows, cols, torch.float32 if kind is torch.int8 else kind)
            w = LinearWeight.of(QuantizedMatrix.of(dense.weight, torch.int8)) if kind is torch.int8 else dense
            apart, before = ops.pack(w), w.weight.clone()
            packed = ops.pack(w, in_place=True)
            assert torch.equal(packed.panels.data[: rows * cols], apart.panels.data[: rows * cols])
            assert (packed.panels.data.data_ptr() == w.weight.data_ptr()) is fits
            assert fits or torch.equal(w.weight, before)
    finally:
        torch.set_num_threads(1)
