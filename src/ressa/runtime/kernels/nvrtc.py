"""CUDA C++ compiled on the user's machine, without a compiler there: by NVRTC, which PyTorch's CUDA builds bring.

What was compiled is kept in the user's cache folder, under the hash of everything it depends on.
"""

import ctypes
import hashlib
import importlib.util
import os
import sys
from functools import cache
from importlib.resources import files
from pathlib import Path

import torch

from ressa.errors import RunError

_OPTIONS = ("--std=c++17", "--restrict")


def compiled(source: str, macros: dict[str, int], architecture: str) -> bytes:
    """The cubin of a source of `cuda/` (its name without ending) for an architecture such as "sm_90a".

    Raises RunError where NVRTC is missing or refuses.
    """
    code, header = _text(f"{source}.cu"), _text("common.cuh")
    options = [f"--gpu-architecture={architecture}", *_OPTIONS]
    options += [f"-D{name}={value}" for name, value in sorted(macros.items())]
    library = _library()
    key = hashlib.sha256("\0".join([code, header, *options, _version(library)]).encode()).hexdigest()
    path = cache_folder() / f"{source}-{architecture}-{key[:24]}.cubin"
    if path.is_file():
        return path.read_bytes()
    _say_once(architecture)
    cubin = _compile(library, f"{source}.cu", code, header, options)
    _keep(path, cubin)
    return cubin


def cache_folder() -> Path:
    """Where compiled kernels and tuned choices are kept: `$XDG_CACHE_HOME/ressa/kernels`, by default in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ressa" / "kernels"


@cache
def available() -> bool:
    """Whether NVRTC is found."""
    try:
        _library()
    except RunError:
        return False
    return True


def _text(name: str) -> str:
    return files("ressa.runtime.kernels").joinpath("cuda", name).read_text(encoding="utf-8")


@cache
def _say_once(architecture: str) -> None:
    print(
        f"ressa: compiling kernels for {architecture}; they are kept in {cache_folder()} for the next time",
        file=sys.stderr,
        flush=True,
    )


def _keep(path: Path, content: bytes) -> None:
    """In one step, as several processes may do it at once; a folder that cannot be written costs only time."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)


@cache
def _library() -> ctypes.CDLL:
    """libnvrtc of the nvidia packages, that of PyTorch's CUDA version first, or of the system."""
    folders: list[Path] = []
    spec = importlib.util.find_spec("nvidia")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folders += Path(place).glob("*/lib")
    found = [path for folder in folders for path in folder.glob("libnvrtc.so.*") if "alt" not in path.name]
    major = (torch.version.cuda or "").split(".")[0]
    found.sort(key=lambda path: (path.suffix == f".{major}", path.name), reverse=True)
    for candidate in [*map(str, found), f"libnvrtc.so.{major}", "libnvrtc.so"]:
        try:
            for builtins in sorted(Path(candidate).parent.glob("libnvrtc-builtins.so.*")):
                ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)  # it looks for them by name alone
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    raise RunError(
        "The sparse kernels need NVRTC, which is not here: install PyTorch with CUDA, or nvidia-cuda-nvrtc."
    )


def _version(library: ctypes.CDLL) -> str:
    major, minor = ctypes.c_int(), ctypes.c_int()
    library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
    return f"{major.value}.{minor.value}"


def _compile(library: ctypes.CDLL, name: str, code: str, header: str, options: list[str]) -> bytes:
    program = ctypes.c_void_p()
    headers, names = (ctypes.c_char_p * 1)(header.encode()), (ctypes.c_char_p * 1)(b"common.cuh")
    arguments = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    created = library.nvrtcCreateProgram(
        ctypes.byref(program), code.encode(), name.encode(), 1, headers, names
    )
    if created:
        raise RunError(f"NVRTC made no program of {name}: error {created}.")
    try:
        if library.nvrtcCompileProgram(program, len(options), arguments):
            log = _content(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program).decode()
            raise RunError(f"NVRTC could not compile {name} ({' '.join(options)}):\n{log.rstrip(chr(0))}")
        return _content(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _content(
    size_of: "ctypes._NamedFuncPointer", read: "ctypes._NamedFuncPointer", program: ctypes.c_void_p
) -> bytes:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    read(program, buffer)
    return buffer.raw
