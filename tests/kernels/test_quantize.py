"""Eight bits: error bounds of the codes, products with codes by every path, and a float8 cache that cannot overflow."""

import pytest
import torch
import torch.nn.functional as F

from kernels.linear import head, linear, linear_norm, linear_silu_mul, pack
from kernels.quantize import FLOAT8, LARGEST, QuantizedMatrix, decode, encode, kv_scales, row_scale, to_float8
from kernels.rope_append import rope_append
from kernels.weights import LinearWeight
from tests.kernels.paged_cases import error
from tests.rounding import sums

CODES = [torch.int8, FLOAT8]
DTYPES = {torch.float32: sums(96 + 8), torch.bfloat16: 1e-2, torch.float16: 2e-3}


def quantized(rows: int, cols: int, codes: torch.dtype, dtype: torch.dtype) -> tuple[QuantizedMatrix, torch.Tensor]:
    matrix = QuantizedMatrix.empty(rows, cols, codes, dtype, torch.device("cpu"))
    weight = (torch.randn(rows, cols) / cols**0.5).to(dtype)
    matrix.fill(weight)
    return matrix, weight


@pytest.mark.parametrize("codes", CODES)
def test_codes_are_within_their_bound_of_the_weight(codes: torch.dtype) -> None:
    torch.manual_seed(0)
    weight = torch.randn(64, 512) * torch.logspace(-6, 6, 64)[:, None]
    weight[3] = 0
    scale = row_scale(weight, codes)
    found = decode(encode(weight, scale, codes), scale)
    half_a_step = scale[:, None] / (2 if codes is torch.int8 else 1024)
    bound = half_a_step if codes is torch.int8 else torch.maximum(weight.abs() / 16, half_a_step)
    assert ((found - weight).abs() <= bound * (1 + 1e-5)).all()
    assert (found[3] == 0).all() and torch.equal(found.abs().amax(1) > 0, weight.abs().amax(1) > 0)
    largest = weight.abs().amax(1)
    torch.testing.assert_close(found.abs().amax(1), largest, rtol=1e-6, atol=0)
    relative = (found - weight).norm(dim=1)[4:] / weight.norm(dim=1)[4:]
    assert relative.max() < (0.01 if codes is torch.int8 else 0.03) and relative.min() > 0.001


@pytest.mark.parametrize("codes", CODES)
def test_a_matrix_has_the_same_codes_however_it_is_split(codes: torch.dtype) -> None:
    torch.manual_seed(1)
    whole, weight = quantized(12, 40, codes, torch.float32)
    rows = QuantizedMatrix.empty(5, 40, codes, torch.float32, torch.device("cpu"))
    rows.fill(weight[3:8])
    assert torch.equal(rows.codes, whole.codes[3:8]) and torch.equal(rows.scale, whole.scale[3:8])
    columns = QuantizedMatrix.empty(12, 10, codes, torch.float32, torch.device("cpu"))
    columns.fill(weight, columns=slice(20, 30))
    assert torch.equal(columns.codes, whole.codes[:, 20:30]) and torch.equal(columns.scale, whole.scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("packed", [False, True])
def test_products_with_codes(codes: torch.dtype, dtype: torch.dtype, packed: bool) -> None:
    """Against float64 with the decoded weights; float8 that is packed for the CPU is rounded to the model's dtype."""
    torch.manual_seed(2)
    matrix, _ = quantized(192, 96, codes, dtype)
    bias, residual = torch.randn(192).to(dtype), torch.randn(7, 192).to(dtype)
    w = LinearWeight.of(matrix, bias)
    w = pack(w) if packed else w
    x = torch.randn(7, 96).to(dtype)
    exact = x.double() @ decode(matrix.codes, matrix.scale).double().T + bias.double()
    tolerance = DTYPES[dtype]
    assert error(linear(x, w), exact) < tolerance and linear(x, w).dtype is dtype
    _, h = linear_norm(x, w, residual, torch.ones(192, dtype=dtype), 1e-6)
    assert error(h, exact + residual.double()) < tolerance
    assert error(linear_silu_mul(x, w), F.silu(exact[:, :96]) * exact[:, 96:]) < tolerance
    assert error(head(x, w), exact) < tolerance and head(x, w).dtype is torch.float32


@pytest.mark.parametrize("bias", [False, True])
def test_no_key_or_value_can_overflow_its_scale(bias: bool) -> None:
    """The worst inputs there are: along a projection's row, and along pairs of rows that RoPE mixes."""
    torch.manual_seed(4)
    heads, dim, hidden = 2, 16, 48
    key, value = torch.randn(2, heads * dim, hidden)
    biases = (100 * torch.randn(heads * dim), torch.randn(heads * dim)) if bias else (None, None)
    gain = torch.rand(hidden) * 3
    k_scale, v_scale = kv_scales(key, value, *biases, gain, heads)
    worst = torch.cat([(w * gain) * sign for w in (key, value) for sign in (1, -1)])
    mixed = (key * gain).view(heads, 2, dim // 2, hidden)
    worst = torch.cat([worst, (mixed[:, 0] + mixed[:, 1]).reshape(-1, hidden), torch.randn(200, hidden)])
    x = F.rms_norm(worst, (hidden,)) * gain
    k, v = (F.linear(x, w, b).view(-1, heads, dim) for w, b in zip((key, value), biases, strict=True))
    pairs = torch.hypot(*k.chunk(2, dim=-1))
    for reached, scale in ((pairs.amax((0, 2)), k_scale), (v.abs().amax((0, 2)), v_scale)):
        assert (reached <= LARGEST[FLOAT8] * scale * (1 + sums(2 * 48))).all()
    assert (v.abs().amax((0, 2)) > 0.99 * LARGEST[FLOAT8] * v_scale).all() or bias, "the bound is reached"


def test_a_float8_cache_saturates_and_keeps_nan() -> None:
    assert to_float8(torch.tensor([1e6, -1e6, 3.0, torch.nan])).float().nan_to_num(-1).tolist() == [448, -448, 3, -1]
    qkv = torch.randn(3, 3 * 16)
    qkv[0, 32:] = 1e5
    qkv[2, 32:] = torch.nan
    caches = [torch.zeros(2, 1, 4, 16, dtype=FLOAT8) for _ in range(2)]
    one = torch.ones(1)
    rope_append(qkv, torch.zeros(8, 16), torch.arange(3), torch.arange(4, 7), *caches, (1, 1), one, one)
    values = caches[1][1, 0].float()
    assert (values[0] == 448).all() and values[2].isnan().all() and (values[1] - qkv[1, 32:]).abs().max() < 0.3
