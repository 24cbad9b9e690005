"""The formats that datasets come in: one file each, which finds the format's parts in a data folder and reads them."""

from collections.abc import Iterator
from pathlib import Path

from ressa.data.formats import (
    aokvqa,
    beside,
    cc3m,
    classes,
    coco,
    flickr,
    genome,
    gqa,
    hub,
    karpathy,
    listed,
    mmbench,
    own,
    pictures,
    pope,
    scienceqa,
    shards,
    textvqa,
    vizwiz,
    vqa,
)
from ressa.data.formats.part import Part
from ressa.data.tree import Tree

# Where two find the same task and split, the first one counts.
FORMATS = (
    own,
    karpathy,
    coco,
    vqa,
    gqa,
    aokvqa,
    textvqa,
    vizwiz,
    scienceqa,
    mmbench,
    pope,
    flickr,
    genome,
    cc3m,
    shards,
    hub,
    beside,
    listed,
    classes,
    pictures,
)


def detect(tree: Tree) -> Iterator[Part]:
    """Everything that some format recognises in a folder; a file is one format's."""
    taken: set[Path] = set()
    for each in FORMATS:
        found = [part for part in each.find(tree) if not taken & set(part.files)]
        taken.update(file for part in found for file in part.files)
        yield from found
