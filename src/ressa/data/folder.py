"""One folder of a dataset in the public formats.

A user assembles it from official downloads by renaming (or linking) them, for each split one has
(`train`, `calibration`, `val`, `test`, ... any name):

    images/<split>/                  the image files; images/ itself where splits share one folder
    captions_<split>.json            COCO captions (captions_val2014.json)
    questions_<split>.json           VQAv2 questions (v2_OpenEnded_mscoco_val2014_questions.json)
    annotations_<split>.json         VQAv2 annotations (v2_mscoco_val2014_annotations.json)
    okvqa_questions_<split>.json     OK-VQA questions (OpenEnded_mscoco_val2014_questions.json)
    okvqa_annotations_<split>.json   OK-VQA annotations (mscoco_val2014_annotations.json)
    gqa_<split>.json                 GQA questions (testdev_balanced_questions.json)
    karpathy.json                    retrieval pools (dataset_coco.json, dataset_flickr30k.json)

Only what is used has to be there.
"""

from pathlib import Path

from ressa.data.coco import image_names, read_captions
from ressa.data.gqa import read_gqa
from ressa.data.karpathy import read_karpathy
from ressa.data.prompts import CAPTION, QUESTION
from ressa.data.sample import CaptionedImage, Question
from ressa.data.vqa import read_vqa
from ressa.errors import UsageError

FILES = {
    "caption": "captions_{}.json",
    "vqa": "questions_{}.json",
    "okvqa": "okvqa_questions_{}.json",
    "gqa": "gqa_{}.json",
}


class DatasetFolder:
    """Reads the layout above; every method raises UsageError naming the file that is missing or wrong.

    `question` and `caption` are the prompts: what a question is put into, at its `{}`, and what asks for a
    caption.
    """

    def __init__(self, path: str | Path, question: str = QUESTION, caption: str = CAPTION) -> None:
        self.path = Path(path)
        self.question = question
        self.caption = caption
        if question.count("{}") != 1:
            raise UsageError(f"the question prompt {question!r} needs one {{}} where the question goes.")
        if not self.path.is_dir():
            raise UsageError(
                f"dataset folder {self.path} does not exist: name a folder with a dataset in it."
            )

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def has(self, task: str, split: str) -> bool:
        """Whether the file of a training task (a key of `FILES`) is there."""
        return (self.path / FILES[task].format(split)).is_file()

    def images(self, split: str) -> Path:
        below = self.path / "images" / split
        return below if below.is_dir() else self.path / "images"

    def vqa(self, split: str) -> list[Question]:
        """VQAv2 questions of a split."""
        return self._vqa(split, "")

    def okvqa(self, split: str) -> list[Question]:
        """OK-VQA questions of a split."""
        return self._vqa(split, "okvqa_")

    def gqa(self, split: str) -> list[Question]:
        """GQA questions of a split."""
        path = self.path / f"gqa_{split}.json"
        return read_gqa(path, self.images(split), self.question, self._names(split))

    def captions(self, split: str) -> list[CaptionedImage]:
        """Captioned images of a split."""
        return read_captions(self.path / f"captions_{split}.json", self.images(split), self.caption)

    def retrieval(self, split: str) -> list[CaptionedImage]:
        """The retrieval pool of a split: Karpathy's list where there is one, else the captions file."""
        listed = self.path / "karpathy.json"
        if not listed.is_file():
            return self.captions(split)
        return read_karpathy(listed, self.path / "images", split, self.caption)

    def _vqa(self, split: str, prefix: str) -> list[Question]:
        return read_vqa(
            self.path / f"{prefix}questions_{split}.json",
            self.path / f"{prefix}annotations_{split}.json",
            self.images(split),
            self.question,
            self._names(split),
        )

    def _names(self, split: str) -> dict[str, str]:
        captions = self.path / f"captions_{split}.json"
        return image_names(captions) if captions.is_file() else {}
