"""An image is processed once while it is remembered, and the outputs do not change."""

import pickle

import torch
from PIL import Image
from transformers import BatchFeature

from ressa.data.remembering import RememberingImageProcessor


class Fixed:
    """One row an image; counts the images it is given."""

    size = 7

    def __init__(self):
        self.seen = 0

    def __call__(self, images, **options):
        self.seen += len(images)
        images = [image[0] if isinstance(image, list) else image for image in images]
        return BatchFeature(
            {"pixel_values": torch.stack([torch.tensor(image.getpixel((0, 0))) for image in images])}
        )


class Packed(Fixed):
    """Two patches an image, packed: nothing says which row is whose."""

    def __call__(self, images, **options):
        rows = super().__call__(images)["pixel_values"]
        return BatchFeature({"pixel_values": rows.repeat_interleave(2, 0)})


def colours(*names):
    return [Image.new("RGB", (2, 2), name) for name in names]


def test_each_image_is_processed_once_and_rows_keep_their_order():
    red, blue, green = colours("red", "blue", "green")
    wrapped = Fixed()
    processor = RememberingImageProcessor(wrapped)
    assert processor([[red], [blue], [red]])["pixel_values"].tolist() == [
        [255, 0, 0],
        [0, 0, 255],
        [255, 0, 0],
    ]
    assert wrapped.seen == 2
    assert processor([blue, green])["pixel_values"].tolist() == [[0, 0, 255], [0, 128, 0]]
    assert wrapped.seen == 3


def test_only_the_last_images_are_kept():
    wrapped = Fixed()
    processor = RememberingImageProcessor(wrapped, size=2)
    images = colours("red", "blue", "green")
    assert len(processor(images)["pixel_values"]) == 3
    processor(images[:1])
    assert wrapped.seen == 4


def test_outputs_that_cannot_be_taken_apart_are_passed_on_unchanged():
    red, blue = colours("red", "blue")
    processor = RememberingImageProcessor(Packed())
    for _ in range(2):
        assert len(processor([[red], [blue]])["pixel_values"]) == 4


def test_everything_else_is_the_wrapped_processors():
    assert RememberingImageProcessor(Fixed()).size == 7


def test_it_goes_to_another_process_without_its_memory():
    (red,) = colours("red")
    processor = RememberingImageProcessor(Fixed(), size=3)
    processor([red])
    sent = pickle.loads(pickle.dumps(processor))
    assert sent._size == 3
    assert not sent._memory
    assert sent([red])["pixel_values"].tolist() == [[255, 0, 0]]
