"""The CUDA path without a GPU: the whole step on fake tensors, launches held against their contracts, no host reads."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.checkpoints import checkpoint
from bench.gemm import linears
from bench.shapes import SHAPES
from engine.request import SamplingParams
from kernels import rms_norm
from kernels.decode_attention import decode_attention_triton
from kernels.dry_run import CUDA, DryRun, HostSync
from kernels.errors import KernelError
from kernels.gemm_choices import Choice, Product, choose, dependent, write_choices
from kernels.limits import H200
from kernels.prefill_attention import prefill_attention_triton
from kernels.silu_mul import silu_mul
from kernels.small_gemm import GemmConfig, default_config
from tests.engine.dry import DryCore, DryGroup
from tests.kernels import launch_contracts

NANO = Path(__file__).parents[2] / "models" / "s1-nano"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """By layers: config.json and tokenizer of the 32B shape; weights are "made on the device"."""
    folder, whole = tmp_path_factory.mktemp("shapes"), SHAPES["qwen2.5-32b"]
    return {n: checkpoint(folder / str(n), replace(whole, num_layers=n), weights=False) for n in (1, 64)}


OUTSIDE = {
    "_decode_inputs_kernel": 1,
    "_embedding_kernel": 1,
    "_tile_kernel": 1,
    "_draw_kernel": 1,
    "_thinking_step_kernel": 1,
}
"""Launches of a captured step outside the layers, norms and head apart."""
NO_LAUNCH = ("detach", "empty", "empty_like", "t", "slice", "select", "unbind", "view", "alias", "_unsafe_view")
"""Operators that allocate or look at memory."""


def launches_of(core: DryCore) -> dict[str, int]:
    """What the step that was replayed last launches; an operator of torch is a launch at least."""
    assert core.replayed is not None
    done: Counter[str] = Counter()
    for name, _ in core.replayed.entries:
        operator = name.split(".")[1] if name.startswith("aten.") else None
        if operator not in NO_LAUNCH:
            done["cuBLAS" if operator in ("mm", "addmm") else name] += 1
    return dict(done)


def mixture(count: int) -> list[SamplingParams]:
    """Requests of all kinds."""
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0.7},
        {"thinking_token_budget": 9, "thinking_extensions": 2},
        {"temperature": 0.6, "top_p": 0.9, "thinking_token_budget": 5},
        {"logprobs": 3},
        {"thinking_format": "none"},
    ]
    return [SamplingParams(max_tokens=6 + i % 5, seed=i, **kinds[i % len(kinds)]) for i in range(count)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"quantization": "int8"}, marks=pytest.mark.slow),
        {"quantization": "fp8", "kv_cache_dtype": "fp8"},
        {"step_graphs": "off"},
    ],
)
def test_s1_nano_loads_prefills_and_decodes(options: dict[str, Any]) -> None:
    """From its file; prompts in chunks, mixed with decodes; captured steps of all kinds."""
    with DryRun() as dry:
        core = DryCore(dry, NANO, max_num_seqs=8, max_num_batched_tokens=64, max_model_len=256, **options)
        pageable = dry.counts.pageable
        for i, params in enumerate(mixture(6)):
            core.add([5] * (3 + 29 * (i % 4)), params)
        core.run()
        graphs = options.get("step_graphs") != "off"
        assert (dry.counts.graphs >= 3 and dry.counts.replays > 5) == graphs
        assert dry.counts.pageable == pageable, "a step copies from pinned memory alone"
        assert dry.counts.reads == 0


@pytest.mark.parametrize("layers, most", [(1, 12), pytest.param(64, 64, marks=pytest.mark.slow)])
def test_32b_at_batch_1_and_many(shapes: dict[int, Path], layers: int, most: int) -> None:
    """Decode and mixed steps. A captured step has nine launches a layer: two norms, four products, rotation with
    append, attention, activation; and seven besides."""
    greedy = SamplingParams(max_tokens=3, ignore_eos=True, thinking_token_budget=2)
    with DryRun(H200) as dry:
        core = DryCore(dry, shapes[layers], load_format="dummy", max_num_seqs=64, max_model_len=4096)
        assert core.core.scheduler.pool.capacity == 64 * 4096
        for batch in (1, most):
            graphs = dry.counts.graphs
            for number in range(batch):  # prompts of their own: what is known already is not computed
                core.add([8 + number] * 40, greedy)
            core.step()
            if batch == most:  # a prompt beside the others' decodes
                core.add([7] * 1000, greedy)
                before = len(dry.counts.launches)
                core.step()
                kinds = {launch.kernel for launch in dry.counts.launches[before:]}
                assert {"_decode_attention_kernel", "_prefill_attention_kernel"} <= kinds
            core.run()
            assert dry.counts.graphs > graphs and core.replayed is not None
            assert launches_of(core) == {
                **OUTSIDE,
                "_rms_norm_kernel": 2 * layers + 1,
                "_rope_append_kernel": layers,
                "_decode_attention_kernel": layers,
                "_silu_mul_kernel": layers,
                "cuBLAS": 4 * layers + 1,
            }


@pytest.mark.parametrize(
    "rule, rows, layers, quantization",
    [
        ("folded", 64, 1, "none"),
        ("dependent", 1, 1, "none"),
        ("dependent", 65, 1, "none"),
        ("dependent", 64, 1, "int8"),
        *(
            pytest.param(rule, rows, layers, quantization, marks=pytest.mark.slow)
            for rule in ("folded", "dependent")
            for rows, layers in ((1, 1), (64, 1), (65, 1), (8, 64))
            for quantization in ("none", "int8")
        ),
    ],
)
def test_folded_layers_have_six_launches(
    shapes: dict[int, Path], monkeypatch: pytest.MonkeyPatch, rule: str, rows: int, layers: int, quantization: str
) -> None:
    """Up to 64 rows: four products, rotation with append, attention; two norms besides, before the first layer and
    behind the last. Beyond them all is as it was."""
    monkeypatch.setenv("S1_GEMM_TABLE", rule)
    with DryRun(H200) as dry:
        options = {"max_num_seqs": 80, "max_model_len": 1024, "quantization": quantization}
        core = DryCore(dry, shapes[layers], load_format="dummy", kv_cache_tokens=80 * 1024, **options)
        for number in range(rows):
            core.add([8 + number] * 20, SamplingParams(max_tokens=3, ignore_eos=True, thinking_token_budget=2))
        core.run()
        launched = launches_of(core)
        if rows > 64:
            assert launched["_silu_mul_kernel"] == layers and launched["_rms_norm_kernel"] == 2 * layers + 1
            assert "_small_gemm_kernel" not in launched and launched["cuBLAS"] == 4 * layers + 1
            return
        head = {"_small_gemm_kernel": 4 * layers + 1} if quantization == "int8" else {"cuBLAS": 1}
        assert launched == {
            **OUTSIDE,
            "_rms_norm_kernel": 2,
            "_small_gemm_kernel": 4 * layers,
            "_rope_append_kernel": layers,
            "_decode_attention_kernel": layers,
            **head,
        }
        assert sum(launched.values()) <= 6 * layers + 8
        products = [launch for launch in dry.counts.launches if launch.kernel == "_small_gemm_kernel"]
        programs = min(launch.grid[0] * launch.grid[1] for launch in products)
        assert programs >= (2 if rows < 33 else 1.6) * 132, "two for each multiprocessor, or no short second wave"
        for launch in dry.counts.launches:
            depends = launch.arguments.get("DEPENDENT", launch.arguments.get("PREFETCH"))
            head = launch.arguments.get("OUT") == SHAPES["qwen2.5-32b"].vocab_size
            assert head or depends is None or bool(depends) == (rule == "dependent"), launch


@pytest.mark.parametrize(
    "ours, launched",
    [
        ({"o"}, {"_small_gemm_kernel": 1, "_rms_norm_kernel": 3, "_silu_mul_kernel": 1, "cuBLAS": 4}),
        ({"gate_up"}, {"_small_gemm_kernel": 1, "_rms_norm_kernel": 3, "cuBLAS": 4}),
        ({"o", "gate_up"}, {"_small_gemm_kernel": 2, "_rms_norm_kernel": 2, "cuBLAS": 3}),
        ({"o", "gate_up", "head"}, {"_small_gemm_kernel": 3, "_rms_norm_kernel": 2, "cuBLAS": 2}),
    ],
)
def test_a_table_decides_product_by_product(
    shapes: dict[int, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: set[str], launched: dict[str, int]
) -> None:
    """The norm between two products is folded where both are ours; rows that a table does not hold for go to cuBLAS."""
    choices = [
        Choice("NVIDIA H200", linear.product, linear.out, linear.inner, 8, GemmConfig(split_k=2), 1.0, 2.0)
        for linear in linears(SHAPES["qwen2.5-32b"], 1)
        if linear.name in ours
    ]
    write_choices(choices, tmp_path / "table.json")
    monkeypatch.setenv("S1_GEMM_TABLE", str(tmp_path / "table.json"))
    whole = {**OUTSIDE, "_rope_append_kernel": 1, "_decode_attention_kernel": 1}
    plain = {"_rms_norm_kernel": 3, "_silu_mul_kernel": 1, "cuBLAS": 5}
    for rows, expected in ((5, launched), *([(9, plain)] if len(ours) == 3 else [])):
        with DryRun(H200) as dry:
            core = DryCore(dry, shapes[1], load_format="dummy", max_num_seqs=16, max_model_len=256)
            for number in range(rows):
                core.add([8 + number] * 20, SamplingParams(max_tokens=3, ignore_eos=True))
            core.run()
            assert launches_of(core) == {**whole, **expected}


def test_float16_keeps_its_norms(shapes: dict[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no room for what is multiplied by the gain and not yet normed."""
    monkeypatch.setenv("S1_GEMM_TABLE", "folded")
    with DryRun(H200) as dry:
        core = DryCore(dry, NANO, dtype="float16", max_num_seqs=4, max_model_len=256)
        core.add([5] * 20, SamplingParams(max_tokens=3, ignore_eos=True))
        core.run()
        layers = len(core.core.runner.model.layers)
        assert launches_of(core)["_rms_norm_kernel"] == 2 * layers + 1


@pytest.mark.parametrize("ranks", [8, pytest.param(2, marks=pytest.mark.slow)])
def test_a_rank_of_several(shapes: dict[int, Path], ranks: int) -> None:
    with DryRun() as dry:
        core = DryCore(
            dry,
            shapes[1],
            DryGroup(ranks - 1, ranks),
            load_format="dummy",
            max_num_seqs=8,
            max_model_len=1024,
            kv_cache_tokens=8192,
        )
        for params in mixture(6):
            core.add([7] * 40, params)
        core.run()
        heads = {launch.arguments["NUM_KV"] for launch in dry.counts.launches if "NUM_KV" in launch.arguments}
        assert heads == {8 // ranks} and dry.counts.replays > 2


@pytest.mark.parametrize("quantization, kv", [("int8", "auto"), pytest.param("fp8", "fp8", marks=pytest.mark.slow)])
def test_eight_bits_of_the_32b_shape(shapes: dict[int, Path], quantization: str, kv: str) -> None:
    """Up to 64 tokens through the kernel, more (prefill) through widened matrices."""
    with DryRun() as dry:
        core = DryCore(
            dry,
            shapes[1],
            load_format="dummy",
            quantization=quantization,
            kv_cache_dtype=kv,
            max_num_seqs=64,
            max_model_len=1024,
        )
        for number, params in enumerate(mixture(12)):
            core.add([7 + number] * 100, replace(params, max_tokens=4))
        core.run()
        products = [launch for launch in dry.counts.launches if launch.kernel == "_small_gemm_kernel"]
        assert {launch.arguments["QUANTISED"] for launch in products} == {True}
        assert not any(launch.arguments["SCALES"] for launch in products), "norms are folded where a table says so"
        programs = {launch.grid[0] * launch.grid[1] for launch in products}
        assert min(programs) >= 2 * 132, "two for each multiprocessor"
        tokens = {launch.arguments["tokens"] for launch in products}
        assert 16 in tokens and max(tokens) <= 64, "twelve tokens are a captured step of sixteen"


def test_a_captured_step_that_does_not_know_of_a_change_shows_itself() -> None:
    with DryRun() as dry:
        core = DryCore(dry, NANO, max_num_seqs=2, max_model_len=256)
        core.add([5] * 20, SamplingParams(max_tokens=9, ignore_eos=True))
        for _ in range(3):
            core.step()
        core.core.runner.model.scale *= 2
        with pytest.raises(AssertionError, match=r"is stale: .*_decode_attention_kernel"):
            core.step()


def test_kernels_are_compiled_for_few_variants(shapes: dict[int, Path]) -> None:
    """Whatever the batch, the chunks and where tables are cut: a compilation in the middle of a run costs seconds."""
    with DryRun() as dry:
        core = DryCore(
            dry, shapes[1], load_format="dummy", max_num_seqs=64, max_num_batched_tokens=128, max_model_len=1024
        )
        for i, params in enumerate(mixture(12)):
            core.add([7] * (1 + 37 * i % 150), params)
        core.run()
    variants = {name: len(keys) for name, keys in dry.counts.variants.items()}
    most = {
        "_rms_norm_kernel": 2,  # with and without residual
        "_decode_attention_kernel": 2,  # up to 8 rows, and up to 64
        "_tile_kernel": 3,
        "_draw_kernel": 3,  # greedy, sampled, filtered
    }
    assert all(count <= most.get(name, 1) for name, count in variants.items()), variants
    assert variants["_decode_attention_kernel"] == 2 and len(variants) == 10


@pytest.mark.parametrize(
    "read",
    [
        lambda t: t[0].item(),
        lambda t: bool(t.any()),
        lambda t: t.nonzero(),
        lambda t: t.tolist(),
        lambda t: t.cpu(),
        lambda t: int(t.max()),
        lambda t: torch.zeros(4).copy_(t),
        lambda t: t[t > 0],
    ],
)
def test_what_would_wait_for_the_device_is_refused(read: Any) -> None:
    with DryRun():
        on_card = torch.zeros(4, device=CUDA)
        with pytest.raises((HostSync, RuntimeError), match=r"host|dynamic|data-dependent|nonzero|_local_scalar"):
            read(on_card)


def test_one_pinned_copy_comes_back_and_is_counted() -> None:
    with DryRun() as dry:
        on_card, host = torch.zeros(4, device=CUDA), torch.empty(4, pin_memory=True)
        host.copy_(on_card, non_blocking=True)
        assert dry.counts.to_host == 1
        with pytest.raises(HostSync, match="blocks"):
            host.copy_(on_card)
        on_card.copy_(host, non_blocking=True)
        on_card.copy_(torch.zeros(4))
        assert (dry.counts.to_device, dry.counts.pageable) == (2, 1)
        dry.answer([1.0, 2.0])
        assert on_card.tolist() == [1.0, 2.0] and dry.counts.reads == 1


def test_memory_that_was_pinned_once_is_not_pinned_by_its_address() -> None:
    with DryRun() as dry:
        on_card = torch.zeros(1 << 20, device=CUDA)
        for _ in range(3):
            on_card.copy_(torch.empty(1 << 20, pin_memory=True), non_blocking=True)
            on_card.copy_(torch.empty(1 << 20))
        assert (dry.counts.to_device, dry.counts.pageable) == (6, 3)


@pytest.mark.parametrize(
    "more, message",
    [
        (lambda: torch.cuda.synchronize(), "the host waited"),
        (lambda: torch.empty(4, pin_memory=True).copy_(torch.zeros(4, device=CUDA), non_blocking=True), "came back"),
    ],
)
def test_a_step_that_waits_for_more_than_its_results_is_seen(more: Any, message: str) -> None:
    with DryRun() as dry:
        core = DryCore(dry, NANO, max_num_seqs=2, max_model_len=256)
        core.add([5] * 20, SamplingParams(max_tokens=9, ignore_eos=True))
        for _ in range(3):
            core.step()
        launch = core.core.runner.launch
        core.core.runner.launch = lambda step: (more(), launch(step))[1]  # type: ignore[method-assign]
        with pytest.raises(AssertionError, match=message):
            core.step()


def test_products_are_chosen_from_the_table_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, table = GemmConfig(64, 128, 1, 4, 3, prefetch=2), tmp_path / "table.json"
    write_choices([Choice("NVIDIA H100", Product.PLAIN, 96, 640, 8, config, 1.0, 2.0, "float32")], table)
    default = default_config((96, 640), 4, 4, gated=False)
    cases: dict[str, tuple[Any, Any, bool]] = {  # by table: what is chosen, for the head, and dependent launches
        str(table): (config, None, True),
        "": (None, None, False),
        "plain": (None, None, False),
        "folded": (default, None, False),
        "dependent": (replace(default, prefetch=4), None, True),
    }
    for named, (chosen, for_head, early) in cases.items():
        monkeypatch.setenv("S1_GEMM_TABLE", named)
        with DryRun():
            x, weight = torch.empty(4, 640, device=CUDA), torch.empty(96, 640, device=CUDA)
            assert choose(x, weight, Product.PLAIN) == chosen
            assert choose(x, weight, Product.HEAD) == for_head and dependent(x) == early
            assert choose(torch.empty(65, 640, device=CUDA), weight, Product.PLAIN) is None
            codes = torch.empty(96, 640, dtype=torch.int8, device=CUDA)
            assert choose(x, codes, Product.HEAD) is not None, "cuBLAS does not take it"
    monkeypatch.setenv("S1_GEMM_TABLE", str(tmp_path / "none.json"))
    with (
        DryRun(),
        pytest.raises(KernelError, match=r"none\.json is no table of products .*; S1_GEMM_TABLE names a table"),
    ):
        choose(torch.empty(4, 640, device=CUDA), torch.empty(96, 640, device=CUDA), Product.PLAIN)


def test_tensors_of_two_devices_are_refused() -> None:
    with DryRun():
        x, here = torch.zeros(3, 64, device=CUDA), torch.ones(64)
        with pytest.raises(RuntimeError, match=r"two (different )?devices"):
            x + here
        with pytest.raises(HostSync, match="weight_ptr is on cpu"):
            rms_norm.rms_norm(x, here, 1e-6)


def test_a_captured_step_touches_no_host_memory() -> None:
    with DryRun(), torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode="thread_local"):
        x = torch.zeros(4, device=CUDA)
        with pytest.raises(HostSync, match="while a step is captured"):
            x.copy_(torch.ones(4))
        with pytest.raises(HostSync, match="synchronize"):
            torch.cuda.synchronize()


def test_attention_is_told_how_far_the_rows_of_a_cut_table_lie_apart() -> None:
    with DryRun() as dry:
        q, cache = torch.empty(2, 5, 128, device=CUDA), torch.empty(9, 1, 64, 128, device=CUDA)
        lens, cu_q = (torch.empty(n, dtype=torch.int32, device=CUDA) for n in (2, 3))
        tables = torch.empty(2, 8, dtype=torch.int32, device=CUDA)[:, :3]
        decode_attention_triton(q, cache, cache, tables, lens, 1.0)
        prefill_attention_triton(q, cache, cache, tables, lens, cu_q, 1, 1.0)
    assert [launch.arguments["table_stride"] for launch in dry.counts.launches] == [8, 8]
    for launch in dry.counts.launches:
        launch_contracts.check(launch)
        launch.arguments["table_stride"] = 3
        with pytest.raises(AssertionError, match="table_stride == "):
            launch_contracts.check(launch)


@pytest.mark.parametrize(
    "x, message",
    [
        (lambda: torch.zeros(3, 128, device=CUDA, dtype=torch.float64), "x_ptr is torch.float64"),
        (lambda: torch.zeros(3, 128, 1, device=CUDA), r"x_ptr is \[3, 128, 1\]"),
    ],
)
def test_a_launch_that_breaks_its_contract_is_seen(x: Any, message: str) -> None:
    with DryRun() as dry:
        silu_mul(x())
    with pytest.raises(AssertionError, match=message):
        launch_contracts.check(dry.counts.launches[0])
