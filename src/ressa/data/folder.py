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
    images/gqa/                      GQA's image files, where they are kept apart from COCO's

Only what is used has to be there.
"""

from pathlib import Path

from ressa.data.coco import image_names, read_captions
from ressa.data.faults import Faults
from ressa.data.gqa import read_gqa
from ressa.data.image_folder import ImageFolder, refuse_outside
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

    Args:
        path: the folder. Nothing outside it is read.
        question: what a question is put into, at its `{}`.
        caption: what asks for a caption.
        follow_links: follow symbolic links that lead out of the folder.
        faults: where to put the entries that cannot be used, for the caller to settle; by default a method
            raises UsageError for them itself.
    """

    def __init__(
        self,
        path: str | Path,
        question: str = QUESTION,
        caption: str = CAPTION,
        *,
        follow_links: bool = False,
        faults: Faults | None = None,
    ) -> None:
        self.path = Path(path)
        self.question = question
        self.caption = caption
        self.follow_links = follow_links
        self.faults = faults
        self._names: dict[str, dict[str, str]] = {}
        self._folders: dict[Path, ImageFolder] = {}
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
        return (self.path / FILES[task].format(_plain(split))).is_file()

    def splits(self, task: str) -> list[str]:
        """The splits that the file of a training task is there for."""
        before, after = FILES[task].split("{}")
        names = (path.name for path in self.path.glob(f"{before}*{after}"))
        return sorted(name.removeprefix(before).removesuffix(after) for name in names)

    def images(self, split: str) -> Path:
        below = self.path / "images" / _plain(split)
        return below if below.is_dir() else self.path / "images"

    def vqa(self, split: str) -> list[Question]:
        """VQAv2 questions of a split."""
        return self._vqa(split, "vqa", "")

    def okvqa(self, split: str) -> list[Question]:
        """OK-VQA questions of a split."""
        return self._vqa(split, "okvqa", "okvqa_")

    def gqa(self, split: str) -> list[Question]:
        """GQA questions of a split."""
        file, apart = self._file("gqa", split), self.path / "images" / "gqa"
        images = self._images(apart if apart.is_dir() else self.images(split))
        return read_gqa(file, images, self.question, self._numbers(split), self.faults)

    def captions(self, split: str) -> list[CaptionedImage]:
        """Captioned images of a split."""
        file = self._file("caption", split)
        return read_captions(file, self._images(self.images(split)), self.caption, self.faults)

    def retrieval(self, split: str) -> list[CaptionedImage]:
        """The retrieval pool of a split: Karpathy's list where there is one, else the captions file."""
        listed = self.path / "karpathy.json"
        if not listed.is_file():
            return self.captions(split)
        return read_karpathy(
            self._inside(listed),
            self.path / "images",
            _plain(split),
            self.caption,
            self.faults,
            root=self.path,
            follow_links=self.follow_links,
        )

    def _vqa(self, split: str, task: str, prefix: str) -> list[Question]:
        return read_vqa(
            self._file(task, split),
            self._inside(self.path / f"{prefix}annotations_{split}.json"),
            self._images(self.images(split)),
            self.question,
            self._numbers(split),
            self.faults,
        )

    def _file(self, task: str, split: str) -> Path:
        """The file of a task. Raises UsageError, with the splits that there are, when it is missing."""
        path = self.path / FILES[task].format(_plain(split))
        if not path.exists() and not path.is_symlink() and (splits := self.splits(task)):
            raise UsageError(
                f"{path} does not exist: choose another split than {split!r} (there is {' and '.join(splits)}), "
                "or put the file there."
            )
        return self._inside(path)

    def _inside(self, path: Path) -> Path:
        refuse_outside(path, self.path, self.follow_links)
        return path

    def _images(self, path: Path) -> ImageFolder:
        if path not in self._folders:
            self._folders[path] = ImageFolder(path, self.path, self.follow_links)
        return self._folders[path]

    def _numbers(self, split: str) -> dict[str, str]:
        """Image id → file name, from the split's captions file; read once."""
        if split not in self._names:
            captions = self.path / f"captions_{split}.json"
            self._names[split] = image_names(self._inside(captions)) if captions.is_file() else {}
        return self._names[split]


def _plain(split: str) -> str:
    """A split's name, which is part of file names. Raises UsageError for one that leads elsewhere."""
    if not split or split in (".", "..") or "/" in split or "\0" in split or len(split) > 100:
        raise UsageError(f"a split cannot be called {split[:100]!r}: name one such as train, val or test.")
    return split
