"""The plan of a GPU day: parts in order of value, for an H100 and for an H200.

A part is a command of its own, with a limit; `bench.gpu.cost` says what it should take. The headline figures need
61 GiB of weights: an H100 has 15 GB for the cache beside them, so its cells are small; what an H200 adds is cells of
the same shape that hold more. Everything that can be known without a GPU is not here.
"""

from dataclasses import dataclass, field

from bench.gpu.files import GEMM_TABLE
from bench.shapes import SHAPES
from kernels.limits import H100, H200, Device, Limits

_32B = ("--shape", "qwen2.5-32b", "--dummy", "--device", "cuda")


@dataclass(frozen=True)
class Part:
    """`module` with `arguments`; "{out}" in them is the folder of the results."""

    name: str
    module: str
    arguments: tuple[str, ...]
    limit: float
    """Seconds after which it is ended, with all that it started."""
    brings: str = ""
    """What is known after it."""
    resumes: bool = True
    """It takes --resume, and leaves out what the results have: worth starting with less time than it needs in all."""
    after: str = ""
    """A part that has to be done first."""
    peers: bool = False
    """vLLM can follow in its arguments, where an interpreter that has it is named."""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cells:
    """What decodes where: BATCHxCONTEXT, the most valuable first."""

    bf16: tuple[str, ...]
    folded: tuple[str, ...]
    tuned: tuple[str, ...]
    fp8_kv: tuple[str, ...]
    eight_bits: tuple[str, ...]
    profile: tuple[str, ...]
    prefill: tuple[str, ...] = ("1024", "8192", "32768")
    peers: tuple[str, ...] = ("1x1024", "8x1024")


CELLS = {
    "H100": Cells(
        bf16=("1x1024", "8x1024", "64x512", "32x1024", "1x8192", "4x8192", "1x32768"),
        folded=("1x1024", "8x1024", "64x512"),
        tuned=("1x1024", "8x1024", "64x512", "32x1024"),
        fp8_kv=("64x1024", "8x8192"),
        eight_bits=("1x1024", "64x1024", "8x8192"),
        profile=("1x1024", "64x512"),
    ),
    "H200": Cells(
        bf16=("1x1024", "8x1024", "64x1024", "32x1024", "8x8192", "1x8192", "1x32768"),
        folded=("1x1024", "8x1024", "64x1024"),
        tuned=("1x1024", "8x1024", "64x1024", "32x1024"),
        fp8_kv=("64x1024", "8x8192", "64x4096"),
        eight_bits=("1x1024", "64x1024", "8x8192"),
        profile=("1x1024", "64x1024"),
    ),
}
_PEERS_ROOM = 20e9
"""Bytes beside the weights for caches and compiled graphs of peers; where there is less they run a smaller shape."""


def peer_shape(card: Device) -> str:
    """What peers run."""
    needed = Limits(SHAPES["qwen2.5-32b"], card).resident_bytes + _PEERS_ROOM
    return "qwen2.5-32b" if needed <= card.memory else "qwen2.5-7b"


def _decode(name: str, cells: tuple[str, ...], limit: float, how: str, *more: str, **other: object) -> Part:
    arguments = (*_32B, "--cells", *cells, "--tokens", "48", "--rounds", "2", *more)
    brings = f"32B {how}: {', '.join(cells).replace('x', ' x ')}"
    return Part(name, "bench.decode", arguments, limit, brings, **other)  # type: ignore[arg-type]


def plan(card: Device) -> tuple[Part, ...]:
    """The parts for `card`, in order. KeyError for a card that none is made for."""
    cells = CELLS[card.name]
    trained = ("--device", "cuda", "--mean-tokens")
    return (
        Part(
            "ceilings",
            "bench.ceilings",
            ("--device", "cuda"),
            60,
            "bandwidth and matrix rate: all is judged by them",
            resumes=False,
        ),
        Part(
            "compile",
            "bench.compile",
            (),
            150,
            "every kernel compiled, by all cores, before anything is timed",
            resumes=False,
        ),
        Part(
            "tokens",
            "bench.correctness",
            ("--device", "cuda", "--parts", "tokens", "training"),
            300,
            "the engine's tokens on this card against the CPU's and the definitions'; packed attention and gradients",
        ),
        _decode("decode", cells.bf16, 300, "bf16, and with budgets in half of the requests", "--budget", "64"),
        Part(
            "tokens_dependent",
            "bench.correctness",
            ("--device", "cuda", "--parts", "tokens", "--only", "32B, 2 layers/bfloat16"),
            150,
            "the tokens of folded layers that overlap, against the definitions",
            environment={"S1_GEMM_TABLE": "dependent"},
        ),
        _decode("decode_folded", cells.folded, 180, "bf16, folded layers", environment={"S1_GEMM_TABLE": "folded"}),
        _decode(
            "decode_dependent",
            cells.folded,
            180,
            "bf16, folded layers, each launched before the one in front of it ends",
            environment={"S1_GEMM_TABLE": "dependent"},
        ),
        Part("kernels", "bench.kernels", ("--device", "cuda"), 150, "each operator alone beside its limit"),
        Part(
            "profile",
            "bench.profile",
            (*_32B, "--cells", *cells.profile),
            120,
            "where a step's time goes, by kernel",
            resumes=False,
        ),
        Part(
            "profile_dependent",
            "bench.profile",
            (*_32B, "--cells", cells.profile[0]),
            120,
            "the same of folded layers that overlap",
            resumes=False,
            environment={"S1_GEMM_TABLE": "dependent"},
        ),
        Part(
            "prefill",
            "bench.prefill",
            (*_32B, "--context", *cells.prefill, "--rounds", "1"),
            120,
            "32B prefill: " + ", ".join(f"{int(length):,}" for length in cells.prefill),
            resumes=False,
        ),
        _decode("decode_int8", cells.eight_bits, 180, "int8 weights", "--quantization", "int8"),
        _decode("decode_fp8_kv", cells.fp8_kv, 240, "fp8 keys and values", "--kv-cache-dtype", "fp8"),
        _decode(
            "decode_fp8",
            cells.eight_bits,
            180,
            "fp8 weights, keys and values",
            "--quantization",
            "fp8",
            "--kv-cache-dtype",
            "fp8",
        ),
        Part(
            "gemm",
            "bench.gemm",
            ("--table", "{out}/" + GEMM_TABLE),
            240,
            "our product against cuBLAS, and the table that says which to take",
        ),
        _decode(
            "decode_tuned",
            cells.tuned,
            180,
            "bf16 with that table",
            environment={"S1_GEMM_TABLE": "{out}/" + GEMM_TABLE},
            after="gemm",
        ),
        Part(
            "gemm_int8",
            "bench.gemm",
            ("--table", "{out}/" + GEMM_TABLE, "--weights", "int8", "--tokens", "1"),
            180,
            "configurations of our product with int8 weights, into the same table",
            after="decode_tuned",
        ),
        Part(
            "training",
            "bench.train",
            ("--shape", "qwen2.5-0.5b", *trained, "4096", "--batch-size", "4", "--steps", "4", "--rounds", "2"),
            120,
            "0.5B, all parameters",
            resumes=False,
        ),
        Part(
            "training_7b_lora",
            "bench.train",
            (
                "--shape",
                "qwen2.5-7b",
                *trained,
                "4096",
                "--batch-size",
                "4",
                "--steps",
                "3",
                "--rounds",
                "1",
                "--checkpointing",
                "full",
                "--settings",
                "lora={rank: 16}",
            ),
            150,
            "7B, LoRA",
            resumes=False,
        ),
        Part(
            "training_32b_slice",
            "bench.train",
            (
                "--shape",
                "qwen2.5-32b",
                "--layers",
                "3",
                *trained,
                "8192",
                "--batch-size",
                "2",
                "--steps",
                "3",
                "--rounds",
                "1",
                "--checkpointing",
                "selective",
            ),
            150,
            "three layers of 32B and its head",
            resumes=False,
        ),
        Part(
            "client_loop",
            "bench.budgets",
            (
                "--shape",
                "qwen2.5-0.5b",
                "--device",
                "cuda",
                "--batch",
                "32",
                "--context",
                "256",
                "--budget",
                "500",
                "1000",
                "2000",
                "--rounds",
                "2",
            ),
            180,
            "budget forcing inside against a loop of requests, 0.5B",
            resumes=False,
        ),
        Part(
            "operators",
            "bench.correctness",
            ("--device", "cuda", "--parts", "operators"),
            240,
            "the tests of every operator on this card",
        ),
        Part(
            "peers",
            "bench.decode",
            (
                "--shape",
                peer_shape(card),
                "--dummy",
                "--device",
                "cuda",
                "--cells",
                *cells.peers,
                "--tokens",
                "48",
                "--rounds",
                "2",
                "--against",
                "transformers",
            ),
            300,
            f"transformers, captured, and vLLM where it is there, beside ours: {peer_shape(card)}",
            peers=True,
        ),
        Part(
            "load",
            "bench.prefill",
            ("--shape", "qwen2.5-0.5b", "--device", "cuda", "--context", "1024"),
            90,
            "loading a checkpoint of 1 GB",
            resumes=False,
        ),
    )


PLANS = {device.name: plan(device) for device in (H100, H200)}
"""By the card's name."""
