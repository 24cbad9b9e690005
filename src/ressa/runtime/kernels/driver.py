"""The CUDA driver's own calls, for what torch does not launch: kernels with clusters and much shared memory."""

import ctypes
from functools import cache
from typing import Any

import torch

from ressa.errors import RunError
from ressa.runtime.kernels import nvrtc

_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8  # CU_FUNC_ATTRIBUTE_…
_CLUSTER_DIMENSION = 4  # CU_LAUNCH_ATTRIBUTE_…
_PROGRAMMATIC_STREAM_SERIALIZATION = 6
_CAPTURE_RELAXED = 2  # CU_STREAM_CAPTURE_MODE_…
_INVALID_CONTEXT = 201  # CUDA_ERROR_…

OVERLAP = True
"""Whether kernels made from now on start before the one ahead in their stream has ended, on Hopper and later: they
fetch weights meanwhile and wait before they touch anything else (programmatic dependent launch). Weights must therefore
not be written by the stream right before: who prepares them waits for the device."""


class _LaunchAttribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_int), ("padding", ctypes.c_int), ("value", ctypes.c_uint * 16)]


class _LaunchConfig(ctypes.Structure):
    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_LaunchAttribute)),
        ("attribute_count", ctypes.c_uint),
    ]


class Kernel:
    """One kernel in one size, to be launched on one device."""

    def __init__(
        self,
        function: ctypes.c_void_p,
        device: int,
        grid: int,
        threads: int,
        shared: int,
        cluster: int,
        overlap: bool,
    ) -> None:
        self._function, self._device = function, device
        self._launch = _driver().cuLaunchKernelEx
        self._by_stream: dict[int, _LaunchConfig] = {}  # calls come in numbers and streams are few
        self._config = _LaunchConfig((grid, 1, 1), (threads, 1, 1), shared)
        attributes = []
        if cluster > 1:
            attributes.append(_LaunchAttribute(_CLUSTER_DIMENSION, 0, (ctypes.c_uint * 16)(cluster, 1, 1)))
        if overlap:
            attributes.append(
                _LaunchAttribute(_PROGRAMMATIC_STREAM_SERIALIZATION, 0, (ctypes.c_uint * 16)(1))
            )
        self._config.attributes = (_LaunchAttribute * len(attributes))(*attributes)
        self._config.attribute_count = len(attributes)

    def __call__(self, *arguments: ctypes.Structure) -> None:
        """Launch on the device's current stream; each argument is one of the kernel's parameters."""
        if self._device == torch._C._cuda_getDevice():
            self._launch_on_stream(arguments)
        else:
            with torch.cuda.device(self._device):
                self._launch_on_stream(arguments)

    def _launch_on_stream(self, arguments: tuple[ctypes.Structure, ...]) -> None:
        stream = torch._C._cuda_getCurrentRawStream(self._device)
        config = self._by_stream.get(stream)
        if config is None:
            config = self._by_stream[stream] = _LaunchConfig.from_buffer_copy(self._config)
            config.stream = stream
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        code = self._launch(ctypes.byref(config), self._function, pointers, None)
        if code == _INVALID_CONTEXT:
            _bind(self._device)
            code = self._launch(ctypes.byref(config), self._function, pointers, None)
        if code:
            check(code, "launch")


def kernel(
    source: str,
    macros: dict[str, int],
    device: int,
    *,
    grid: int,
    threads: int,
    shared: int,
    cluster: int = 1,
    overlap: bool = False,
    name: str | None = None,
) -> Kernel:
    """Compile (or find) a source of `cuda/` and load it. threads a CTA; shared: bytes of dynamic shared memory;
    cluster: CTAs in one. overlap: whether it may start early (`OVERLAP`), as it waits itself. The kernel is called like
    its source, or `name`."""
    function = _function(source, name or source, tuple(sorted(macros.items())), device)
    early = overlap and OVERLAP and torch.cuda.get_device_capability(device) >= (9, 0)
    return Kernel(function, device, grid, threads, shared, cluster, early)


@cache
def _function(source: str, name: str, macros: tuple[tuple[str, int], ...], device: int) -> ctypes.c_void_p:
    cubin = nvrtc.compiled(source, dict(macros), architecture(device))
    module, function, driver = ctypes.c_void_p(), ctypes.c_void_p(), _driver()
    torch.cuda.init()
    with torch.cuda.device(device):
        _bind(device)
        # Loading is no work of a stream: it may happen while one is captured into a graph.
        mode = ctypes.c_int(_CAPTURE_RELAXED)
        driver.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
        try:
            check(driver.cuModuleLoadData(ctypes.byref(module), cubin), f"loading {source}")
        finally:
            driver.cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
        check(driver.cuModuleGetFunction(ctypes.byref(function), module, name.encode()), f"finding {name}")
        limit = ctypes.c_int(shared_limit(device))
        check(
            driver.cuFuncSetAttribute(function, ctypes.c_int(_MAX_DYNAMIC_SHARED_SIZE_BYTES), limit),
            "asking for shared memory",
        )
    return function


def _bind(device: int) -> None:
    """Make the device's context current in this thread, if none is: PyTorch may not have done so yet."""
    driver, context, handle = _driver(), ctypes.c_void_p(), ctypes.c_int()
    driver.cuCtxGetCurrent(ctypes.byref(context))
    if context.value is None:
        check(driver.cuDeviceGet(ctypes.byref(handle), device), "finding the device")
        check(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle), "its context")
        check(driver.cuCtxSetCurrent(context), "its context")


def architecture(device: int) -> str:
    """What to compile for: "sm_90a" on an H100, with the instructions that only this architecture has."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}{'a' if (major, minor) == (9, 0) else ''}"


@cache
def shared_limit(device: int) -> int:
    """Bytes of shared memory that one CTA may have."""
    properties: Any = torch.cuda.get_device_properties(device)
    return properties.shared_memory_per_block_optin


class TensorMap(ctypes.Structure):
    """A CUtensorMap: how the copy engine finds and swizzles boxes of a matrix."""

    _fields_ = [("opaque", ctypes.c_uint64 * 16)]


def tensor_map(pointer: int, rows: int, columns: int, stride: int, box: tuple[int, int]) -> TensorMap:
    """Of a matrix (rows, columns) of 16-bit values, rows `stride` values apart, in boxes (rows, 64 columns) that lie
    in shared memory with the 128-byte swizzle; what lies outside reads as zero."""
    memory = ctypes.create_string_buffer(128 + 64)
    aligned = (ctypes.addressof(memory) + 63) // 64 * 64
    sizes = (ctypes.c_uint64 * 2)(columns, rows)
    strides = (ctypes.c_uint64 * 1)(stride * 2)
    boxes, steps = (ctypes.c_uint32 * 2)(box[1], box[0]), (ctypes.c_uint32 * 2)(1, 1)
    uint16, none, swizzle_128, promote_256 = (ctypes.c_int(value) for value in (1, 0, 3, 3))
    code = _driver().cuTensorMapEncodeTiled(
        ctypes.c_void_p(aligned), uint16, ctypes.c_uint32(2), ctypes.c_void_p(pointer), sizes, strides, boxes,
        steps, none, swizzle_128, promote_256, none,
    )  # fmt: skip
    check(code, "describing x")
    return TensorMap.from_buffer_copy((ctypes.c_char * 128).from_address(aligned))


def check(code: int, what: str) -> None:
    if code:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(code, ctypes.byref(text))
        raise RunError(f"CUDA: {what} failed: {(text.value or b'unknown').decode()} ({code}).")


@cache
def _driver() -> ctypes.CDLL:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise RunError("The CUDA driver (libcuda.so.1) was not found.") from error
