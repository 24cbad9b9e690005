"""A model larger than memory: its weights stay on disk, and pruned blocks go straight into the output's shards.

transformers maps the tensors of a safetensors file into memory and the system reads them where they are touched.
So every weight is at hand as always, and takes memory from its block's turn until it is put back. The output's
shards are the source's with other numbers in them: same files, same keys, same places, so that a block's weights
are written once, where they stay, and what is not pruned is copied byte for byte at the end.
"""

import ctypes
import os
import re
import shutil
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ressa.anatomy import Block
from ressa.checkpoint.kept import keep_tensors, kept_tensors
from ressa.checkpoint.resume import claim, refuse, say_how_far
from ressa.checkpoint.stored import INDEX, Place, StoredTensors
from ressa.errors import RunError, UsageError
from ressa.fast_dtype import narrowed
from ressa.files import say_damaged
from ressa.processes import is_first
from ressa.sparsity import PackedMasks, as_packed

_GIVE_BACK = 4  # MADV_DONTNEED of Linux
_COPIED = 64 << 20  # bytes copied at a time


class StreamedWeights:
    """The weights of a loaded model where they lie: in the source's shards, or pruned in the output's.

    model: as `load` gives it, on the CPU and in the dtype it is stored in. source: its folder. folder: where the
    output's shards grow, and where a run that was cut short finds what was done. computes_in: a wider dtype that
    weights of half precision have while they are used; they are stored in their own again. resident: the model
    itself stays in memory, wherever it is moved to, and only what was pruned goes to the shards.
    Raises UsageError where weights cannot be mapped, or not one of `layers` is stored as it computes.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        source: str | Path,
        folder: str | Path,
        *,
        computes_in: torch.dtype | None = None,
        resident: bool = False,
    ) -> None:
        if sys.platform != "linux":
            raise UsageError("Weights are streamed on Linux only: leave out --stream.")
        self.source, self.folder, self.identity = StoredTensors(source), Path(folder), ""
        if self.source.packed:
            raise UsageError(
                f"{source} is packed, so it cannot be streamed: give what `ressa unpack` makes of it, or leave "
                "out --stream."
            )
        self.computes_in, self.resident = computes_in, resident
        self.places = _places(model, self.source)
        for name in layers:
            if f"{name}.weight" not in self.places:
                raise UsageError(
                    f"{name} is stored in another form or dtype than it computes in, so it cannot be streamed: "
                    "leave out --stream and --dtype, or save the model anew with this version of transformers."
                )
        parameters = dict(model.named_parameters())
        self._data = {name: parameters[name].data for name in self.places}
        self._names = {id(parameters[name]): name for name in self.places}
        self._stale: dict[str, Tensor] = {}
        self._pruned: set[str] = set()
        self._shards: dict[str, Tensor] = {}

    def claim(self, identity: str, *, force: bool = False) -> None:
        """Make the folder this run's. Raises UsageError if it holds unfinished work of another identity, unless that
        is to be dropped (`force`)."""
        self.identity = identity
        claim(self.folder, identity, force=force)

    def keep(self, block: Block, weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> PackedMasks:
        """Write a block's pruned weights where they stay, then its masks, which say that it is finished.

        weights, masks: layer name → (out, in). Returns the masks as they lie on disk. Of several processes the
        first writes.
        """
        if not is_first():
            return as_packed(masks)
        sums = {name: self._write(f"{name}.weight", weight) for name, weight in weights.items()}
        for file in {self.places[f"{name}.weight"].file for name in weights}:
            _settle(self._open(file))
        at_rest = as_packed(masks)
        packed = {name: at_rest.packed(name) for name in at_rest}
        widths = {name: at_rest.width(name) for name in at_rest}
        keep_tensors(self._note(block), packed, identity=self.identity, widths=widths, sums=sums)
        return self._take_up(block) or at_rest

    def restore(self, blocks: Sequence[Block], modules: Mapping[str, nn.Module]) -> PackedMasks:
        """Take up finished blocks: their weights are the pruned ones from now on. Returns their masks."""
        masks = PackedMasks()
        finished = 0
        for block in blocks:
            if (found := self._take_up(block, anew=False)) is not None:
                finished += 1
                masks.update(found)
                if not self.resident:
                    self.put_back(modules[block.name])
                    continue
                for name in found:
                    weight: Any = modules[name].weight
                    weight.data.copy_(self._data[f"{name}.weight"])
        say_how_far(finished, blocks)
        return masks

    def announce(self, module: nn.Module) -> None:
        """Let the system read what a module will need soon."""
        for parameter in module.parameters():
            name = self._names.get(id(parameter))
            if name is not None and name not in self._pruned:
                self.source.announce(self.places[name])

    def let_go(self, tensor: Tensor) -> None:
        """What a parameter takes of memory is free: it is read again when it is touched again."""
        name = self._names.get(id(tensor))
        if name is not None:
            _give_back(self._data[name])

    def put_back(self, module: nn.Module) -> None:
        """Every weight of a module is what lies on disk now, and takes no memory until it is touched again."""
        names = [self._names.get(id(parameter)) for parameter in module.parameters()]
        for name, parameter in zip(names, module.parameters(), strict=True):
            if name is not None:
                parameter.data = self._data[name]
                _give_back(self._data[name])
        stale = [self._stale.pop(name) for name in names if name in self._stale]
        for tensor in stale:
            _give_back(tensor)
        if stale:
            _trim_heap()

    def finish(self, target: Path) -> None:
        """Complete the shards with all that was not pruned, and put them, and their index, into `target`."""
        for name in sorted(set(self.source.files.values())):
            source, shard = self.source.folder / name, self._open(name)
            with source.open("rb") as reader, shard.open("r+b") as writer:
                for begin, end in self._unpruned(name, source.stat().st_size):
                    _copy(reader.fileno(), writer.fileno(), begin, end)
            (target / name).unlink(missing_ok=True)
            try:
                os.link(shard, target / name)
            except OSError:  # another file system, or one that knows no links
                shutil.copyfile(shard, target / name)
        if (self.source.folder / INDEX).is_file():
            shutil.copyfile(self.source.folder / INDEX, target / INDEX)

    def _write(self, name: str, weight: Tensor) -> int:
        """Write a weight to its place, and return the checksum of its bytes there."""
        place, old = self.places[name], self._data[name]
        if weight.dtype == self.computes_in:
            weight = narrowed(weight, old.dtype)
        if weight.dtype != old.dtype or weight.shape != old.shape:
            raise RunError(
                f"{name} came back as {weight.dtype} {tuple(weight.shape)}: this is a defect of ressa."
            )
        data = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        with self._open(place.file).open("r+b") as file:
            file.seek(place.begin)
            file.write(data)
        return zlib.crc32(data)

    def _take_up(self, block: Block, *, anew: bool = True) -> PackedMasks | None:
        """A finished block's weights are those in the output's shards; its masks, mapped as well. None for a block
        that is not finished. anew: it was written by this run; otherwise its weights are held to their checksums,
        and one that is damaged is not finished, which is said."""
        kept = kept_tensors(self._note(block))
        if kept is None:
            return None
        tensors, note = kept
        if note.get("identity") != self.identity:
            refuse(self.folder)
        mapped = {
            name: self._mapped(self.places[f"{name}.weight"], self._data[f"{name}.weight"])
            for name in tensors
        }
        for name, weight in () if anew else mapped.items():
            if zlib.crc32(weight.reshape(-1).view(torch.uint8).numpy().data) != note.get("sums", {}).get(
                name
            ):
                say_damaged(self.folder / self.places[f"{name}.weight"].file)
                return None
            _give_back(weight)
        masks = PackedMasks()
        for name, packed in tensors.items():
            parameter = f"{name}.weight"
            self._pruned.add(parameter)
            old = self._data[parameter]
            self._data[parameter] = mapped[name]
            self._stale[parameter] = old  # which the model computes with until it is put back
            masks.add(name, packed, note["widths"][name])
        return masks

    def _mapped(self, place: Place, like: Tensor) -> Tensor:
        """A tensor of the output, mapped."""
        path = self._open(place.file)
        if place.file not in self._shards:
            size = path.stat().st_size
            storage = torch.UntypedStorage.from_file(str(path), shared=False, nbytes=size)
            self._shards[place.file] = torch.empty(0, dtype=torch.uint8).set_(storage)  # type: ignore[arg-type]
        part = self._shards[place.file][place.begin : place.begin + place.size]
        return part.view(like.dtype).view(like.shape)

    def _open(self, name: str) -> Path:
        """An output shard, made on first use: as long as the source's, empty so far."""
        path, size = self.folder / name, (self.source.folder / name).stat().st_size
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f"{name}.tmp")
            with unfinished.open("wb") as file:
                file.truncate(size)
            unfinished.replace(path)
        elif (
            path.stat().st_size != size
        ):  # it was damaged: what is lacking is empty, and its blocks are done again
            os.truncate(path, size)
        return path

    def _unpruned(self, file: str, size: int) -> Iterator[tuple[int, int]]:
        """The stretches of a shard between pruned weights: first byte, and the one behind the last."""
        done = sorted(
            (place.begin, place.begin + place.size)
            for name, place in self.places.items()
            if name in self._pruned and place.file == file
        )
        at = 0
        for begin, end in [*done, (size, size)]:
            if at < begin:
                yield at, begin
            at = end

    def _note(self, block: Block) -> Path:
        return self.folder / f"{block.name}.masks.safetensors"


def _places(model: nn.Module, stored: StoredTensors) -> dict[str, Place]:
    """Parameter → where the file holds it that it is mapped from, told by its address; others are left out."""
    at = {
        (os.path.realpath(stored.folder / place.file), place.begin): place
        for place in stored.places.values()
        if place.size
    }
    mapped = list(_mappings({path for path, _ in at}))
    found: dict[str, Place] = {}
    for name, parameter in model.named_parameters():
        address = parameter.data_ptr()
        for begin, end, offset, path in mapped:
            if begin <= address < end:
                place = at.get((path, offset + address - begin))
                if place is not None and place.size == parameter.nbytes and parameter.is_contiguous():
                    found[name] = place
    return found


def _mappings(files: set[str]) -> Iterator[tuple[int, int, int, str]]:
    """Where this process has files in memory: first address, the one behind the last, offset in the file, file."""
    line = re.compile(r"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ \d+\s+(/.*)")
    for text in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if (match := line.fullmatch(text)) and match[4] in files:
            yield int(match[1], 16), int(match[2], 16), int(match[3], 16), match[4]


def _give_back(mapped: Tensor) -> None:
    """The system may use the memory of a tensor that is mapped from a file; changes made to it are forgotten."""
    page = os.sysconf("SC_PAGE_SIZE")
    begin = -(-mapped.data_ptr() // page) * page  # whole pages only: neighbours have a part in the others
    length = (mapped.data_ptr() + mapped.nbytes) // page * page - begin
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), _GIVE_BACK)


def _trim_heap() -> None:
    """What was freed goes back to the system, too: small things that stay would hold on to all between them."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _settle(path: Path) -> None:
    """What was written to a file is on the disk."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


def _copy(reader: int, writer: int, begin: int, end: int) -> None:
    """Copy bytes begin:end of one open file to the same place in another, within the system where it can."""
    while begin < end:
        length = min(end - begin, _COPIED)
        try:
            done = os.copy_file_range(reader, writer, length, begin, begin)
        except OSError:
            done = os.pwrite(writer, os.pread(reader, length, begin), begin)
        if not done:
            raise RunError(
                "The source's weights are shorter than they were: leave them alone while they are read."
            )
        begin += done
