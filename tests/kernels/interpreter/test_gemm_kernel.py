"""The small-M product with its prologue and epilogues against float64."""

import pytest
import torch
import torch.nn.functional as F

from kernels.errors import KernelError
from kernels.linear import head, linear
from kernels.quantize import FLOAT8, QuantizedMatrix, decode
from kernels.rms_norm import rms_norm_reference, rms_norm_triton
from kernels.small_gemm import GemmConfig, small_gemm
from kernels.weights import LinearWeight
from tests.kernels.paged_cases import DTYPES, TOLERANCE, error
from tests.rounding import sums


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens, out, width, split_k", [(1, 200, 300, 1), (7, 130, 256, 3), (64, 64, 520, 4)])
def test_bias_residual_and_split_k(device, dtype, tokens, out, width, split_k):
    x = torch.randn(tokens, width, device=device).to(dtype)
    w = (torch.randn(out, width, device=device) / width**0.5).to(dtype)
    bias, residual = torch.randn(out, device=device).to(dtype), torch.randn(tokens, out, device=device).to(dtype)
    config = GemmConfig(block_out=64, block_in=64, split_k=split_k)
    for _ in range(2):  # the second launch finds the tickets of the first
        y, scaled = small_gemm(x, w, config, bias=bias, residual=residual)
        assert scaled is None
        assert error(y, x.double() @ w.double().T + bias + residual) < TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("tokens, split_k", [(1, 1), (7, 3), (64, 2)])
def test_a_norm_between_two_products_is_part_of_both(device, dtype, gated, tokens, split_k):
    """The first leaves h, h times the gain, and sums of h^2; the second divides by the rows' roots. h is what was
    rounded, as the definition's norm reads it."""
    x, residual = (torch.randn(tokens, width, device=device).to(dtype) for width in (72, 190))
    w, then = torch.randn(190, 72, device=device) / 8, torch.randn(180, 190, device=device) / 14
    w, then, bias = w.to(dtype), then.to(dtype), torch.randn(180, device=device).to(dtype)
    gain, eps = torch.randn(190, device=device).to(dtype), 0.3
    config = GemmConfig(block_in=64, split_k=split_k)
    h, scaled = small_gemm(x, w, config, residual=residual, gain=gain, eps=eps)
    assert scaled is not None and scaled.squares.shape == (tokens, 3), "of 64 outputs each"
    assert error(h, x.double() @ w.double().T + residual) < TOLERANCE[dtype]
    exact = h.double()
    assert error(scaled.squares, torch.stack([p.square().sum(1) for p in exact.split(64, 1)], 1)) < sums(64)
    assert torch.equal(scaled.values, (h.float() * gain.float()).to(dtype))
    y, nothing = small_gemm(scaled, then, config, bias=bias, gated=gated)
    want = rms_norm_reference(exact, gain.double(), eps)[0] @ then.double().T + bias.double()
    if gated:
        want = F.silu(want[:, :90]) * want[:, 90:]
    assert nothing is None and error(y, want) < TOLERANCE[dtype]


def test_no_order_of_programs_changes_a_bit(device, order):
    torch.manual_seed(1)
    x, w, gain = (torch.randn(*size, device=device) for size in ((5, 200), (130, 200), (130,)))
    config = GemmConfig(block_out=64, block_in=32, split_k=3)
    h, scaled = small_gemm(x, w, config, residual=torch.randn(5, 130, device=device), gain=gain, eps=1e-6)
    assert scaled is not None
    y, _ = small_gemm(scaled, torch.randn(140, 130, device=device), config, gated=True)
    for got, first in zip(
        (h, scaled.values, scaled.squares, y), IN_ORDER or (h, scaled.values, scaled.squares, y), strict=True
    ):
        assert torch.equal(got, first)
    IN_ORDER[:] = h, scaled.values, scaled.squares, y


IN_ORDER: list[torch.Tensor] = []
"""What the first order gave."""


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_head_gives_float32(device, dtype):
    x = torch.randn(3, 96, device=device).to(dtype)
    w = torch.randn(150, 96, device=device).to(dtype)
    logits, _ = small_gemm(x, w, GemmConfig(block_in=32), wide=True)
    assert logits.dtype == torch.float32 and error(logits, x.double() @ w.double().T) < sums(96)


@pytest.mark.parametrize("folded", ["nothing", "norm", "gated", "wide"])
def test_a_nan_row_stays_in_its_row(device, folded):
    x, w = torch.randn(4, 64, device=device), torch.randn(70, 64, device=device)
    x[2] = torch.nan
    gain = torch.ones(70, device=device) if folded == "norm" else None
    config = GemmConfig(block_in=32, split_k=2 if folded == "nothing" else 1)
    y, scaled = small_gemm(x, w, config, gain=gain, gated=folded == "gated", wide=folded == "wide")
    if scaled is not None:
        y, _ = small_gemm(scaled, torch.randn(33, 70, device=device), config)
    assert y[2].isnan().all() and torch.isfinite(y[[0, 1, 3]]).all()


def fills(call) -> int:
    """How often the call fills a tensor."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return sum(event.count for event in profile.key_averages() if event.key in ("aten::fill_", "aten::zero_"))


@pytest.mark.parametrize("gated", [False, True])
def test_a_dependent_launch_gives_the_same_bits(device, gated, unfilled):
    """On a GPU behind a norm that lets it start early and before a product that does so too, in a captured graph."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (9, 0):
        pytest.skip("dependent launches need sm_90; an H100 or H200 runs them")
    width = 512 if device.type == "cuda" else 384
    x, gain = torch.randn(7, width, device=device), torch.randn(width, device=device)
    first, second = torch.randn(2 * width, width, device=device) / 20, torch.randn(130, width, device=device) / 20

    def chain(prefetch: int) -> torch.Tensor:
        y, _ = rms_norm_triton(x, gain, 1e-6, follows=prefetch > 0)
        y, _ = small_gemm(y, first if gated else first[:width], GemmConfig(prefetch=prefetch), gated=gated)
        return small_gemm(y, second, GemmConfig(split_k=3, prefetch=prefetch))[0]

    want = chain(0)
    chain(4)  # compile, and make the tickets
    made: list[torch.Tensor] = []
    none = "what stands between the launches keeps them apart, and hides a race"
    assert fills(lambda: made.append(chain(4))) == 0, none
    assert torch.equal(made[0], want)
    if device.type == "cpu":
        return
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = chain(4)
    for _ in range(100):
        got.fill_(torch.nan)
        graph.replay()
        assert torch.equal(got, want)


def test_what_it_does_not_take_is_refused(device):
    with pytest.raises(KernelError, match="not 65"):
        small_gemm(torch.randn(65, 64, device=device), torch.randn(64, 64, device=device), GemmConfig())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("codes", [torch.int8, FLOAT8])
@pytest.mark.parametrize("gated", [False, True])
def test_codes_of_8_bits_are_widened_and_scaled(device, dtype, codes, gated):
    matrix = QuantizedMatrix.empty(180, 136, codes, dtype, device)
    matrix.fill((torch.randn(180, 136, device=device) / 12).to(dtype))
    x, bias = torch.randn(5, 136, device=device).to(dtype), torch.randn(180, device=device).to(dtype)
    want = x.double() @ decode(matrix.codes, matrix.scale).double().T + bias.double()
    if gated:
        want = F.silu(want[:, :90]) * want[:, 90:]
    config = GemmConfig(block_in=64, split_k=3)
    y, _ = small_gemm(x, matrix.codes, config, bias=bias, gated=gated, scale=matrix.scale)
    assert error(y, want) < TOLERANCE[dtype]
    if not gated:  # the public operators take the same way, and widen the matrix first beyond 64 tokens
        w = LinearWeight.of(matrix, bias)
        wide = torch.randn(70, 136, device=device).to(dtype)
        exact = wide.double() @ decode(matrix.codes, matrix.scale).double().T + bias.double()
        assert error(linear(x, w), want) < TOLERANCE[dtype]
        assert error(linear(wide, w), exact) < TOLERANCE[dtype]
        assert error(head(wide[:3], w), exact[:3]) < TOLERANCE[dtype]
