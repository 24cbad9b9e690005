"""The sizes in which each kernel can be compiled and launched, and which of them a layer and a number of tokens get.

The choice is a table, `variants.json`, measured on an H100; the nearest measured shape decides. Of entries for one case
the first that fits is taken: for split weights those measured at 70 % sparsity, which take more memory a weight, stand
before those at 50 %. The user's own measurements (`tuning`) lie in the cache folder and come first.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass, replace
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any, ClassVar, Self, TypeVar

import torch

from ressa.runtime.kernels import layout24, nvrtc, split

MOST_TOKENS = 64  # that the kernel for few tokens takes in one launch, of 2:4 weights
MOST_SPLIT_TOKENS = 32  # and of split ones
BARRIER_ROOM = 1024  # bytes of shared memory before all else


@dataclass(frozen=True)
class Decode24:
    """cuda/decode24.cu: tiles of 8 tokens; blocks of 32 rows a warp; warps along rows and along k; stages of a ring;
    CTAs an SM asked of the compiler; CTAs of a cluster, which split k."""

    kernel: ClassVar[str] = "decode24"
    UNIT: ClassVar[int] = 1
    RECORDS: ClassVar[int] = 0
    VALUE_BYTES: ClassVar[int] = 2
    token_tiles: int
    row_blocks: int
    warps_m: int
    warps_k: int
    stages: int
    ctas: int
    splits: int

    @property
    def alone(self) -> Self:
        """What is in the list of candidates."""
        return self

    @property
    def warps(self) -> int:
        return self.warps_m * self.warps_k

    @property
    def rows(self) -> int:
        """Of a CTA."""
        return self.warps_m * self.row_blocks * 32

    @property
    def x_parts(self) -> int:
        """In which x comes: one for each place along k, or four, one after the other."""
        return self.warps_k if self.warps_k > 1 else 4

    @property
    def least_room(self) -> int:
        """Parts of x that must be in memory at once."""
        return self.warps_k if self.warps_k > 1 else 2

    def x_room(self, tokens: int, columns: int, record_bytes: int, limit: int) -> int:
        """Parts of x that are in memory at once: all, if they fit."""
        all_fit = self.shared(tokens, columns, record_bytes, self.x_parts) <= limit
        return self.x_parts if all_fit else self.least_room

    def x_part(self, columns: int) -> int:
        """Bytes of one token's longest part."""
        return -(-self._units(columns) // self.x_parts) * self.UNIT * layout24.COLUMNS * 2

    def x_bytes(self, columns: int, room: int) -> int:
        """Of shared memory for one token: those of its parts, and 16 that keep banks apart."""
        if self.warps_k > 1:
            return self._units(columns) * self.UNIT * layout24.COLUMNS * 2 + 16
        return room * self.x_part(columns) + 16

    def _units(self, columns: int) -> int:
        """Of columns, that a CTA has at most."""
        return -(-columns // (layout24.COLUMNS * self.UNIT * self.splits))

    def shared(self, tokens: int, columns: int, record_bytes: int, room: int) -> int:
        """Bytes of a CTA's dynamic shared memory. record_bytes: of the longest record, where there are any."""
        loop = self.warps * self.row_blocks * self.ring_bytes(record_bytes) + tokens * self.x_bytes(
            columns, room
        )
        sums = self.warps * self.token_tiles * 8 * (self.row_blocks * 32 + 4) * 4
        if self.splits > 1 and self.warps_k > 1:
            sums += tokens * self.rows * 4
        return BARRIER_ROOM + max(loop, sums)

    @property
    def barrier_bytes(self) -> int:
        """Of shared memory, at most: two a part of x, one a stage and record of each warp."""
        return 8 * (2 * self.x_parts + self.warps * (self.stages + self.RECORDS))

    def ring_bytes(self, record_bytes: int) -> int:
        """Of shared memory for a warp's row block."""
        return self.stages * layout24.block_bytes(self.VALUE_BYTES) + self.RECORDS * record_bytes

    def fits(self, tokens: int, columns: int, record_bytes: int, limit: int) -> bool:
        return (
            tokens <= 8 * self.token_tiles
            and self.splits <= -(-columns // (layout24.COLUMNS * self.UNIT))
            and self.barrier_bytes <= BARRIER_ROOM
            and self.shared(tokens, columns, record_bytes, self.least_room) <= limit
        )

    def macros(self, room: int) -> dict[str, int]:
        return {
            "X_ROOM": room,
            "FP8": int(self.VALUE_BYTES == 1),
            "RESIDUAL": int(self.RECORDS > 0),
            "TOKEN_TILES": self.token_tiles,
            "ROW_BLOCKS": self.row_blocks,
            "WARPS_M": self.warps_m,
            "WARPS_K": self.warps_k,
            "STAGES": self.stages,
            "CTAS": self.ctas,
        }


@dataclass(frozen=True)
class Split24(Decode24):
    """The same with RESIDUAL, for weights of any pattern: a warp takes four blocks of columns at a time and has two
    records in memory."""

    kernel: ClassVar[str] = "split24"
    UNIT: ClassVar[int] = split.BLOCKS
    RECORDS: ClassVar[int] = 2


@dataclass(frozen=True)
class Fp8Decode24(Decode24):
    """The same for values of one byte."""

    kernel: ClassVar[str] = "decode24_fp8"
    VALUE_BYTES: ClassVar[int] = 1


@dataclass(frozen=True)
class Prefill24:
    """cuda/prefill24.cu: warpgroups, each with 128 rows; the cluster along rows and along tokens; stages; tokens of a
    CTA. tail: the same five numbers for the rows that are left when every multiprocessor has had its CTA as often as
    all of them can; none: these are made like the others, by some of the multiprocessors."""

    kernel: ClassVar[str] = "prefill24"
    warpgroups: int
    cluster_m: int
    cluster_n: int
    stages: int
    tokens: int
    tail: tuple[()] | tuple[int, int, int, int, int] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "tail", tuple(self.tail))  # JSON has lists

    @property
    def alone(self) -> "Prefill24":
        return replace(self, tail=())

    def parts(self, rows: int, tokens: int, multiprocessors: int) -> list[tuple["Prefill24", int, int]]:
        """What makes which rows: a variant without a tail, from where, up to where."""
        tiles_n = -(-tokens // (self.tokens * self.cluster_n)) * self.cluster_n
        tile, tiles_m = 128 * self.warpgroups, -(-rows // (128 * self.warpgroups))
        rounds = tiles_m * tiles_n // multiprocessors
        whole = rounds * multiprocessors // (tiles_n * self.cluster_m) * self.cluster_m * tile
        if not self.tail or not 0 < whole < rows:
            return [(self.alone, 0, rows)]
        return [(self.alone, 0, whole), (Prefill24(*self.tail), whole, rows)]

    @property
    def shared(self) -> int:
        stage = self.tokens * 128 + 4 * self.warpgroups * layout24.block_bytes()
        results = 4 * self.warpgroups * self.tokens * 80
        return 1024 + max(self.stages * (-(-stage // 1024) * 1024 + 16), results)

    def macros(self) -> dict[str, int]:
        return {
            "WARPGROUPS": self.warpgroups,
            "CLUSTER_M": self.cluster_m,
            "CLUSTER_N": self.cluster_n,
            "STAGES": self.stages,
            "TOKENS": self.tokens,
        }


Variant = TypeVar("Variant", bound=Decode24 | Prefill24)


def choose(
    shape: tuple[int, int], tokens: int, candidates: Iterable[Variant], allowed: Callable[[Variant], bool]
) -> Variant | None:
    """The variant measured best for the nearest shape (out, in) and number of tokens, of those that are allowed.

    candidates: all that fit, taken in this order where none of the table is allowed. None where there are none.
    """
    fitting = [variant for variant in candidates if allowed(variant)]
    if not fitting:
        return None
    kind = type(fitting[0])

    def distance(entry: dict[str, Any]) -> float:
        return sum(
            abs(math.log2(wanted / there))
            for wanted, there in (
                (shape[0], entry["rows"]),
                (shape[1], entry["columns"]),
                (tokens, entry["tokens"]),
            )
        )

    for entry in sorted(_table(kind.kernel), key=distance):
        variant = kind(*entry["variant"])
        if variant.alone in fitting:
            return variant
    return fitting[0]


@lru_cache
def _table(kernel: str) -> list[dict[str, Any]]:
    """The user's entries for this card first, so that of equally near ones theirs is taken."""
    shipped = json.loads(files("ressa.runtime.kernels").joinpath("variants.json").read_text(encoding="utf-8"))
    return [*(user_table().get(kernel) or []), *shipped.get(kernel, [])]


def user_table() -> dict[str, list[dict[str, Any]]]:
    """What `ressa bench --tune` found on this machine's card; empty where it was never run."""
    path = user_table_path()
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def user_table_path() -> "Any":
    name = (
        torch.cuda.get_device_name().replace(" ", "-").replace("/", "-")
        if torch.cuda.is_available()
        else "cpu"
    )
    return nvrtc.cache_folder() / f"variants-{name}.json"


def forget() -> None:
    """Read the tables anew."""
    _table.cache_clear()


def entry(shape: tuple[int, int], tokens: int, variant: Decode24 | Prefill24) -> dict[str, Any]:
    """One line of a table."""
    numbers = [number for number in astuple(variant) if number != ()]
    return {"rows": shape[0], "columns": shape[1], "tokens": tokens, "variant": numbers}


@cache
def _decode24_sizes() -> tuple[tuple[int, ...], ...]:
    """What tuning tries: token tiles, row blocks, warps along rows and k, stages, CTAs an SM."""
    return (
        (1, 1, 1, 8, 4, 2), (1, 1, 1, 8, 3, 3), (1, 2, 1, 8, 3, 2), (1, 2, 1, 8, 2, 3), (1, 1, 1, 4, 6, 4),
        (1, 2, 1, 4, 4, 4), (1, 1, 1, 16, 3, 2), (1, 2, 1, 16, 2, 1), (1, 1, 2, 4, 4, 3), (1, 1, 4, 4, 3, 2),
        (1, 2, 2, 4, 3, 2), (1, 1, 2, 8, 4, 1),
        (2, 1, 1, 8, 4, 2), (2, 2, 1, 8, 2, 2), (2, 2, 2, 4, 2, 3), (2, 2, 2, 4, 3, 2), (2, 1, 2, 8, 3, 1),
        (2, 1, 4, 4, 3, 1), (2, 1, 4, 2, 4, 3), (2, 2, 4, 2, 2, 2), (2, 1, 2, 4, 4, 2),
        (4, 1, 8, 1, 4, 2), (4, 2, 4, 2, 2, 2), (4, 2, 8, 1, 2, 2), (4, 1, 4, 2, 4, 2), (4, 1, 4, 4, 3, 1),
        (4, 2, 4, 4, 2, 1), (4, 1, 8, 2, 3, 1), (4, 2, 4, 1, 4, 3),
        (8, 1, 8, 1, 3, 2), (8, 1, 8, 1, 4, 1), (8, 2, 8, 1, 2, 1), (8, 1, 4, 2, 4, 1), (8, 1, 8, 2, 3, 1),
        (8, 1, 16, 1, 3, 1), (8, 1, 4, 1, 6, 2), (8, 1, 8, 1, 2, 2), (8, 1, 4, 1, 4, 2),
        (8, 1, 8, 1, 6, 1), (8, 2, 8, 1, 3, 1), (4, 2, 8, 1, 3, 1), (4, 1, 8, 1, 6, 1),
    )  # fmt: skip


FewTokens = TypeVar("FewTokens", bound=Decode24)


def candidates(
    kind: type[FewTokens], tokens: int, columns: int, record_bytes: int, limit: int
) -> Iterator[FewTokens]:
    """Variants of a kernel for few tokens that fit into `limit` bytes of a CTA's shared memory.

    record_bytes: of the longest record, 0 for a weight that has none.
    """
    for sizes in _sizes(tokens, kind):
        variant = kind(*sizes)
        if variant.fits(tokens, columns, record_bytes, limit):
            yield variant


def _sizes(tokens: int, kind: type[Decode24]) -> Iterator[tuple[int, ...]]:
    tiles = 1 << max(0, -(-tokens // 8) - 1).bit_length()
    for tile, blocks, warps_m, warps_k, stages, ctas in _decode24_sizes():
        if tile == tiles:
            for deeper in (1, 2) if kind.VALUE_BYTES == 1 else (1,):  # as many bytes under way
                for splits in (1, 2, 4, 8):
                    yield tile, blocks, warps_m, warps_k, stages * deeper, ctas, splits


def prefill24_candidates() -> Iterator[Prefill24]:
    for warpgroups, stages, tokens in (
        (2, 6, 128), (2, 5, 128), (1, 6, 128), (1, 4, 128), (2, 5, 160), (1, 7, 160), (2, 6, 96), (1, 8, 96),
        (2, 8, 64), (1, 8, 64), (1, 4, 64), (2, 6, 112), (1, 7, 112), (2, 5, 144), (1, 7, 144), (2, 5, 176),
        (1, 6, 176),
    ):  # fmt: skip
        for cluster_m, cluster_n in ((1, 1), (2, 1), (1, 2), (2, 2), (4, 1)):
            yield Prefill24(warpgroups, cluster_m, cluster_n, stages, tokens)
