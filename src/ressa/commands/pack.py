"""`ressa pack` and `ressa unpack`: a result folder with its pruned weights packed, and back."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ressa.checkpoint import MANIFEST, find
from ressa.commands.outcome import Outcome
from ressa.commands.target import refuse_overlap
from ressa.errors import UsageError
from ressa.files import check_folder, check_writable
from ressa.locks import held
from ressa.report import Table
from ressa.runtime.format import is_packed

if TYPE_CHECKING:
    from collections.abc import Callable

    from ressa.checkpoint import Sizes


def pack_model(folder: str, output: Path, *, force: bool = False) -> Outcome:
    """Write a folder again with its pruned weights packed; one that was packed from it already stays as it is."""

    def write() -> "Sizes":
        from ressa.checkpoint import pack_folder  # after the checks, which need no PyTorch

        return pack_folder(folder, output)

    said = f"The packed model is in {output}; after `import ressa`, from_pretrained reads it."
    return _write(folder, output, write, said, packed=True, force=force)


def unpack_model(folder: str, output: Path, *, force: bool = False) -> Outcome:
    """Undo `pack_model`, bit for bit; a folder that was unpacked from it already stays as it is."""

    def write() -> "Sizes":
        from ressa.checkpoint import unpack_folder

        return unpack_folder(folder, output)

    return _write(folder, output, write, f"The unpacked model is in {output}.", packed=False, force=force)


def _write(
    folder: str, output: Path, write: "Callable[[], Sizes]", said: str, *, packed: bool, force: bool
) -> Outcome:
    source = Path(find(folder))
    check_folder(output)
    refuse_overlap(output, source)
    check_writable(output, room=sum(path.stat().st_size for path in source.glob("*.safetensors")))
    with held(output):
        if output.exists() and not force and any(output.iterdir()):
            if not _comes_from(source, output, packed):
                raise UsageError(
                    f"{output} exists already: choose another --output, or replace it with --force."
                )
            data = {"model": folder, "output": str(output)}
            return Outcome(data, lines=[f"{output} held this result already."])
        sizes = write()
    data = {"model": folder, "output": str(output), **asdict(sizes)}
    lines = [said]
    if sizes.left:
        lines.append(
            f"{len(sizes.left)} pruned layers are stored in another form and stay as they are, "
            f"{sizes.left[0]} for one."
        )
    return Outcome(data, [sizes_table(sizes, folder)], lines)


def _comes_from(source: Path, output: Path, packed: bool) -> bool:
    """Whether the output was written from this very result, which its manifest tells."""
    manifests = [path / MANIFEST for path in (source, output)]
    return (
        is_packed(output) == packed
        and all(path.is_file() for path in manifests)
        and manifests[0].read_bytes() == manifests[1].read_bytes()
    )


def sizes_table(sizes: "Sizes", title: str = "") -> Table:
    """Bytes before and after, of the packed weights and of the whole model."""
    rows = [
        (label, _megabytes(dense), _megabytes(packed), f"{packed / dense:.4f} ×" if dense else "")
        for label, (dense, packed) in (
            (f"{sizes.layers} pruned weights", sizes.weights),
            ("all tensors", sizes.files),
        )
    ]
    return Table(title, ("", "dense", "packed", "of it"), tuple(rows))


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
