"""Pictures and nothing else: no annotation file, no class. What learns without texts can use them.

<split>/ or images/<split>/      the image files; of pictures without a split all are for training
"""

from collections.abc import Iterator, Sequence

from ressa.data.formats import classes
from ressa.data.formats.classes import pictures_in
from ressa.data.formats.part import Part, Reading
from ressa.data.sample import Sample
from ressa.data.tree import Tree, split_of


def find(tree: Tree) -> Iterator[Part]:
    if any(branch.files for branch in tree.branches) or any(True for _ in classes.find(tree)):
        return
    splits: dict[str, list] = {}
    for path in tree.with_pictures:
        splits.setdefault(split_of(path, tree.path), []).append(path)
    for split, folders in splits.items():
        yield Part("pictures", split, "pictures alone", (), _read, tuple(folders))


def _read(reading: Reading, part: Part) -> Sequence[Sample]:
    return [
        Sample(reading.inside(path), reading.caption, None, path.relative_to(reading.path).as_posix())
        for folder in part.images
        for path in pictures_in(reading.inside(folder))
    ]
