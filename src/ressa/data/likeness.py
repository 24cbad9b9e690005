"""Which pictures are the same, whatever their files are called: by their bytes, and by what they show.

A picture that was scaled or encoded again has other bytes. So each one also gets a difference hash (256 bits:
whether each of 16 × 16 places is darker than its right neighbour) and a thumbnail of 16 × 16 pixels. Two pictures
are alike where 20 or fewer bits differ and no pixel of the thumbnails differs by more than 32 of 255, nor their mean
by more than 4. Pictures of hardly any contrast are compared by their bytes alone, as their hash tells nothing.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np
from PIL import Image

from ressa.data.images import read_small
from ressa.data.sample import StoredPicture

SIDE = 16
BITS = 20  # of 256 may differ
MEAN, MOST = 4.0, 32  # of 255, by which thumbnails may differ
CONTRAST = 6.0  # of 255: the least standard deviation of some colour of a picture's thumbnail
CROWDED = 200  # pictures that share 16 bits of their hash by chance: these bits tell nothing

How = Literal["same bytes", "same picture"]


@dataclass(frozen=True)
class Look:
    """What a picture is known by. digest: of its bytes. bits: uint16 (16,). thumbnail: uint8 (16, 16, 3)."""

    digest: str
    bits: np.ndarray
    thumbnail: np.ndarray

    @property
    def flat(self) -> bool:
        return bool(self.thumbnail.std(axis=(0, 1)).max() < CONTRAST)


def look_at(picture: StoredPicture) -> Look:
    """What a picture is known by. Raises UsageError as `open_image` does."""
    small = read_small(picture)
    grey = np.asarray(small.convert("L").resize((SIDE + 1, SIDE), Image.Resampling.BOX), dtype=np.int16)
    darker = grey[:, :-1] < grey[:, 1:]
    thumbnail = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BOX))
    digest = blake2b(picture.read_bytes(), digest_size=16).hexdigest()
    return Look(digest, np.packbits(darker).view(np.uint16), thumbnail)


def alike(first: Sequence[Look], second: Sequence[Look]) -> Iterator[tuple[int, int, How]]:
    """The pairs of a picture of the first and one of the second that are the same: their places, and by what."""
    by_digest: dict[str, list[int]] = defaultdict(list)
    by_band: dict[tuple[int, int], list[int]] = defaultdict(list)
    for place, look in enumerate(second):
        by_digest[look.digest].append(place)
        if not look.flat:
            for band, value in enumerate(look.bits.tolist()):
                by_band[band, value].append(place)
    for place, look in enumerate(first):
        same = by_digest.get(look.digest, [])
        yield from ((place, other, "same bytes") for other in same)
        if look.flat:
            continue
        near: set[int] = set()
        for band, value in enumerate(look.bits.tolist()):
            candidates = by_band.get((band, value), [])
            if len(candidates) <= CROWDED:
                near.update(candidates)
        for other in sorted(near.difference(same)):
            if _shows_the_same(look, second[other]):
                yield place, other, "same picture"


def _shows_the_same(one: Look, other: Look) -> bool:
    if int(np.bitwise_count(one.bits ^ other.bits).sum()) > BITS:
        return False
    apart = np.abs(one.thumbnail.astype(np.int16) - other.thumbnail)
    return bool(apart.max() <= MOST and apart.mean() <= MEAN)
