"""The CUDA path on a machine without CUDA: tensors on "cuda" that have no values, launches that are recorded.

Inside `DryRun`, torch operators on such tensors check shapes, dtypes and devices and compute nothing (FakeTensorMode);
Triton kernels go through Triton's own launcher up to the point where it would compile. Tensors of the host are real, so
schedulers and tables work. What would make the host wait for a GPU is refused: reading a value (`item`, `bool`,
`nonzero` and the like), and every copy to the host but those into pinned memory that do not block. While a step is
captured, so is every copy in either direction, and asking the driver to wait.

`trace` is what a captured step would replay: its operators and launches with their constants, and which memory, made
before it, they read and write.
"""

import ctypes
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from kernels import decode_attention, gemm_choices, small_gemm
from kernels.language import GPUTarget, require_triton, triton
from kernels.limits import H100, Device

CUDA = torch.device("cuda", 0)
_READS = {
    torch.Tensor.item: "item",
    torch.Tensor.numpy: "numpy",
    torch.Tensor.__bool__: "bool",
    torch.Tensor.__int__: "int",
    torch.Tensor.__float__: "float",
    torch.Tensor.__index__: "index",
    torch.Tensor.nonzero: "nonzero",
    torch.nonzero: "nonzero",
}
"""What makes the host wait for a value."""
_FACTORIES = {torch.tensor, torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn}
_COPIES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)
_CACHES = (
    decode_attention._workspace,
    small_gemm._tickets,
    gemm_choices._rows,
    gemm_choices._chosen,
    gemm_choices._dependent,
)
"""What the kernels keep for a device."""


class HostSync(RuntimeError):
    """The host would wait for the device, or a captured step would touch the host."""


@dataclass(frozen=True)
class Launch:
    """One launch of a Triton kernel."""

    kernel: str
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    """by name: tensors, numbers, and the constants that it is compiled for"""


@dataclass(frozen=True)
class Pointer:
    """A tensor as Triton's launcher sees it."""

    tensor: torch.Tensor

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def data_ptr(self) -> int:
        """Allocations are aligned to 512 bytes; a view starts where it starts."""
        return 512 + int(self.tensor.storage_offset()) * self.tensor.element_size()


class Graph:
    """A captured step: `trace` is what was captured. `replay` counts, and calls `replayed`."""

    def __init__(self, dry: "DryRun") -> None:
        self._dry, self.trace = dry, Trace()

    def replay(self) -> None:
        self._dry.counts.replays += 1
        self._dry.replayed(self)


@dataclass
class Counts:
    """What happened so far."""

    launches: list[Launch] = field(default_factory=list)
    variants: dict[str, set[str]] = field(default_factory=dict)
    """by kernel: what Triton would compile"""
    operators: Counter[str] = field(default_factory=Counter)
    """of torch, on the device"""
    to_device: int = 0
    pageable: int = 0
    """copies to the device out of memory that is not pinned: the host waits for them"""
    to_host: int = 0
    waits: int = 0
    """times that the host asked to wait for all that the device has to do"""
    reads: int = 0
    """values that the host read where it was allowed to"""
    graphs: int = 0
    replays: int = 0


class DryRun:
    """A context in which "cuda" is a card that computes nothing. `card` is the one it stands for."""

    def __init__(self, card: Device = H100, compiles: bool = False) -> None:
        """`compiles`: kernels are compiled for sm_90 as they are launched, into Triton's cache."""
        require_triton()
        self.counts = Counts()
        self.replayed: Callable[[Graph], None] = lambda graph: None
        """Called at every replay of a captured step."""
        self._properties = SimpleNamespace(
            name=f"NVIDIA {card.name}",
            multi_processor_count=132,
            total_memory=int(card.memory),
            major=9,
            minor=0,
        )
        self._compiles = compiles
        self.fake = _Fake(allow_non_fake_inputs=True)
        self._pinned: dict[int, torch.Tensor] = {}  # by address, which nothing else gets while the tensor is here
        self._capturing = False
        self._answers: list[Any] = []
        self._trace: Trace | None = None
        self._stack = ExitStack()

    def __enter__(self) -> "DryRun":
        self._stack.callback(_clear_caches)
        _clear_caches()
        for inside in (_guard(), *self._cuda(), *self._triton(), _Functions(self), _Operators(self)):
            self._stack.enter_context(inside)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def answer(self, *values: Any) -> None:
        """Let the host read that many times, and give it these values."""
        self._answers += values

    @contextmanager
    def tracing(self) -> Iterator["Trace"]:
        """Inside it, what is done on the device is entered in the trace."""
        before, self._trace = self._trace, Trace()
        try:
            yield self._trace
        finally:
            self._trace = before

    def _cuda(self) -> Iterator[Any]:
        """Stand-ins for what the project uses of torch.cuda."""
        properties = self._properties
        stream = SimpleNamespace(wait_stream=lambda other: None)
        generator = torch.Generator
        simple: dict[str, Any] = {
            "_lazy_init": lambda: None,
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "current_device": lambda: 0,
            "set_device": lambda device: None,
            "get_device_name": lambda device=None: properties.name,
            "get_device_capability": lambda device=None: (properties.major, properties.minor),
            "get_device_properties": lambda device=None: properties,
            "mem_get_info": lambda device=None: (properties.total_memory, properties.total_memory),
            "max_memory_allocated": lambda device=None: 0,
            "graph_pool_handle": object,
            "Stream": lambda *args, **kwargs: stream,
            "current_stream": lambda device=None: stream,
            "stream": lambda stream: ExitStack(),
            "CUDAGraph": lambda: Graph(self),
            "graph": self._graph,
            "synchronize": self._synchronize,
            "is_current_stream_capturing": lambda: self._capturing,
            "Event": lambda **kwargs: SimpleNamespace(
                record=lambda: None, synchronize=lambda: None, elapsed_time=lambda other: 1.0
            ),
        }
        yield mock.patch.multiple(torch.cuda, **simple)
        yield mock.patch.object(fake_tensor, "init_gpu_context", lambda device: None)
        # There is none for a card that is not there; what it would draw is not looked at.
        yield mock.patch.object(torch, "Generator", lambda device="cpu": generator("cpu"))
        yield mock.patch.object(FakeTensor, "tolist", lambda tensor: self._read("tolist"))

    def _synchronize(self, device: Any = None) -> None:
        if self._capturing:
            raise HostSync("torch.cuda.synchronize while a step is captured")
        self.counts.waits += 1

    @contextmanager
    def _graph(self, graph: Graph, **options: Any) -> Iterator[None]:
        self.counts.graphs += 1
        self._capturing = True
        try:
            with self.tracing() as graph.trace:
                yield
        finally:
            self._capturing = False

    def _triton(self) -> Iterator[Any]:
        """Triton's launcher with a driver that knows the card only, and nothing behind it."""
        target = GPUTarget("cuda", 10 * self._properties.major + self._properties.minor, 32)
        driver = SimpleNamespace(
            get_current_device=lambda: 0, get_current_stream=lambda device: 0, get_current_target=lambda: target
        )
        jit = triton.runtime.jit
        yield mock.patch.object(jit, "driver", SimpleNamespace(active=driver))
        run, compile_ = jit.JITFunction.run, jit.JITFunction._do_compile
        binders: dict[Any, Any] = {}

        def launch(kernel: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
            caches = binders.setdefault(kernel, {})
            if 0 not in caches:
                caches[0] = kernel.create_binder()
            with mock.patch.object(kernel, "device_caches", caches):
                return run(kernel, *tree_map(_pointer, args), grid=grid, warmup=False, **tree_map(_pointer, kwargs))

        def compiled(kernel: Any, key: str, *args: Any) -> Any:
            self.counts.variants.setdefault(kernel.__name__, set()).add(key)
            if self._compiles:
                signature, _, constexprs, options, attrs, _ = args
                _build_launcher(
                    kernel.compile(
                        kernel.ASTSource(kernel, signature, constexprs, attrs), target=target, options=options.__dict__
                    )
                )
            stub = SimpleNamespace(
                launch_metadata=lambda *args: None,
                function=None,
                packed_metadata=None,
                run=lambda *args: self._launched(kernel, args[:3], args[9:]),
            )
            kernel.device_caches[0][0][key] = stub
            return stub

        assert compile_ is not None
        yield mock.patch.object(jit.JITFunction, "run", launch)
        yield mock.patch.object(jit.JITFunction, "_do_compile", compiled)

    def _launched(self, kernel: Any, grid: tuple[int, ...], values: tuple[Any, ...]) -> None:
        tensors = (value.tensor if isinstance(value, Pointer) else value for value in values)
        arguments = dict(zip(kernel.arg_names, tensors, strict=True))
        for name, value in arguments.items():
            if isinstance(value, torch.Tensor) and value.device != CUDA:
                raise HostSync(f"{kernel.__name__}: {name} is on {value.device}, not on the card")
        self.counts.launches.append(Launch(kernel.__name__, grid, arguments))
        if self._trace is not None:
            self._trace.enter(kernel.__name__, (grid, arguments), ())

    def _operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One torch operator with a tensor of the card among its arguments, or whose result is to be there."""
        if func in _COPIES:
            self._copy(func, args, kwargs)
            if func is torch.ops.aten.copy_.default and not isinstance(args[0], FakeTensor):
                return args[0]
        kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
        with self.fake:
            result = func(*args, **kwargs)
        self.counts.operators[str(func)] += 1
        if self._trace is not None:
            self._trace.enter(str(func), (args, kwargs), result)
        return result

    def _copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Refuses copies that would make the host wait, and all copies inside a captured step."""
        target = args[0].device if func is torch.ops.aten.copy_.default else kwargs.get("device") or args[0].device
        source = args[1] if func is torch.ops.aten.copy_.default else args[0]
        if target.type == source.device.type:
            return
        if self._capturing:
            raise HostSync(f"a copy from {source.device} to {target} while a step is captured")
        if target.type == "cpu":
            waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            if func is not torch.ops.aten.copy_.default or waits or not self._is_pinned(args[0]):
                raise HostSync("a copy to the host that blocks, or whose target is not pinned")
            self.counts.to_host += 1
        else:
            self.counts.to_device += 1
            self.counts.pageable += not self._is_pinned(source)

    def _is_pinned(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._pinned

    def _read(self, name: str) -> Any:
        if not self._answers:
            raise HostSync(f"the host reads a value of the card ({name})")
        self.counts.reads += 1
        return self._answers.pop(0)


class Trace:
    """Operators and launches in order. Memory that was there before is told by what it is, new memory by its maker."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, Any]] = []
        self._made: dict[int, int] = {}
        self._kept: list[torch.Tensor] = []

    def enter(self, name: str, arguments: Any, results: Any) -> None:
        """`results` are new to the trace, where they are no views of what is known."""
        self.entries.append((name, tree_map(self._seen, arguments)))
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor):
                known = {self._storage(value) for value in tree_leaves(arguments) if isinstance(value, torch.Tensor)}
                if self._storage(result) not in known:
                    self._made.setdefault(self._storage(result), len(self._made))
                    self._kept.append(result)  # so that no other gets its place

    def _seen(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return str(value)
        storage = self._storage(value)
        place = f"made {self._made[storage]}" if storage in self._made else f"kept {storage}"
        return place, value.storage_offset(), tuple(value.shape), tuple(value.stride()), str(value.dtype)

    @staticmethod
    def _storage(tensor: torch.Tensor) -> int:
        return tensor.untyped_storage()._cdata

    def difference(self, other: "Trace") -> str | None:
        """The first entry that differs, in words; None: both are the same."""
        for at, (ours, theirs) in enumerate(zip(self.entries, other.entries, strict=False)):
            if ours != theirs:
                return f"entry {at}: {ours} became {theirs}"
        if len(self.entries) != len(other.entries):
            return f"{len(self.entries)} entries became {len(other.entries)}"
        return None


class _Fake(FakeTensorMode):
    avoid_device_init = True  # although `torch.cuda.is_available` says that there is a device


class _Functions(TorchFunctionMode):
    """What must be seen before torch makes operators of it: pinned memory, and reads of values."""

    def __init__(self, dry: DryRun) -> None:
        super().__init__()
        self._dry = dry

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _READS and args and isinstance(args[0], FakeTensor):
            return self._dry._read(_READS[func])
        if func not in _FACTORIES:
            return func(*args, **kwargs)
        pinned, device = kwargs.pop("pin_memory", False), kwargs.get("device")
        if func is torch.tensor and device is not None and torch.device(device).type == "cuda":
            return func(*args, **{**kwargs, "device": "cpu"}).to(CUDA)
        result = func(*args, **kwargs)
        if pinned:
            self._dry._pinned[result.untyped_storage().data_ptr()] = result
        return result


class _Operators(TorchDispatchMode):
    """Operators on tensors of the card go to the fake mode, all others are real."""

    def __init__(self, dry: DryRun) -> None:
        super().__init__()
        self._dry = dry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return args[0].fake_device if isinstance(args[0], FakeTensor) else func(*args)
        device = kwargs.get("device")
        wanted = device is not None and torch.device(device).type == "cuda"
        if not (wanted or any(isinstance(value, FakeTensor) for value in tree_leaves((args, kwargs)))):
            return func(*args, **kwargs)
        if func.namespace == "aten":
            with self:  # in inference mode compound operators come here whole
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        return self._dry._operator(func, args, kwargs)


def _pointer(value: Any) -> Any:
    return Pointer(value) if isinstance(value, torch.Tensor) else value


def _build_launcher(compiled: Any) -> None:
    """Some versions of Triton have a function in C for every signature, which the system's compiler makes at the first
    launch. It is linked with libcuda: where that is, it can be made now."""
    from triton.backends.nvidia import driver

    if hasattr(driver, "make_launcher"):
        with suppress(AssertionError, ImportError):  # there is no libcuda
            driver.CudaLauncher(compiled.src, compiled.metadata)


def _clear_caches() -> None:
    for cached in _CACHES:
        cached.cache_clear()


@contextmanager
def _guard() -> Iterator[None]:
    """What switches between CUDA devices is replaced by the no-op that "meta" has: a CPU build of torch has nothing
    there and refuses to index tensors of CUDA, a CUDA build asks the driver. (c10's registry of guards, by device type:
    CUDA is 1, meta 14.)"""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    registry = (ctypes.c_void_p * 15).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    before, registry[1] = registry[1], registry[14]
    try:
        yield
    finally:
        registry[1] = before
