"""`ressa data`: list, check and download, as a person runs them."""

import io
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image

from ressa.data.auditing import audit
from ressa.data.obtaining import catalog
from ressa.data.obtaining.catalog import DATASETS, Dataset, Download
from tests.data import official
from tests.data.obtaining.servers import serving


def photo(number, size=(120, 90)):
    """A picture that is like a photograph: smooth, with contrast, and no other like it."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path):
    """COCO 2017 with questions about val2014, all pictures different."""
    data = tmp_path / "coco"
    official.coco(data, {"train2017": range(8), "val2017": range(8, 12), "val2014": range(12, 16)})
    (data / "annotations" / "captions_val2014.json").unlink()
    official.vqa(data, {"val2014": range(12, 16)})
    for path in data.rglob("*.jpg"):
        photo(int(path.stem[-12:])).save(path, quality=95)
    return data


def test_a_good_folder_is_shown_and_nothing_is_wrong(ressa, folder):
    said = ressa("data", "check", folder)
    assert said.status == 0
    for words in ("caption, train2017", "vqa, val2014", "16 pictures were opened"):
        assert words in said.out
    data = json.loads(ressa("data", "check", folder, "--json").out)
    assert data["wrong"] == ""
    assert {(part["task"], part["split"], part["samples"]) for part in data["parts"]} == {
        ("caption", "train", 8),
        ("caption", "val", 4),
        ("vqa", "val", 4),
    }


def test_missing_and_damaged_pictures_and_bad_entries_are_counted_and_named(ressa, folder):
    (folder / "train2017" / "000000000003.jpg").unlink()
    (folder / "val2017" / "000000000009.jpg").write_bytes(b"no picture")
    path = folder / "v2_mscoco_val2014_annotations.json"
    content = json.loads(path.read_text())
    content["annotations"][1]["answers"] = 7
    path.write_text(json.dumps(content))
    said = ressa("data", "check", folder)
    assert said.status == 1
    assert "3 entries cannot be used" in said.sentence
    for words in (
        "000000000003.jpg does not exist",
        "000000000009.jpg",
        "answers is the number 7, not a list",
    ):
        assert words in said.out
    parts = {
        (part["name"], part["split"]): part
        for part in json.loads(ressa("data", "check", folder, "--json").out)["parts"]
    }
    assert [
        parts[key][what]
        for key, what in (
            (("COCO captions 2017", "train"), "missing"),
            (("COCO captions 2017", "val"), "unreadable"),
            (("VQAv2", "val"), "bad"),
        )
    ] == [1, 1, 1]
    assert ressa("data", "check", folder, "--no-pictures").status == 1


@pytest.mark.parametrize(
    ("name", "make", "how"),
    [
        ("the file", lambda path, to: shutil.copy(path, to), "same bytes"),
        ("encoded again", lambda path, to: Image.open(path).save(to, quality=60), "same picture"),
        (
            "made smaller",
            lambda path, to: Image.open(path).resize((64, 48)).save(to, quality=85),
            "same picture",
        ),
        ("as PNG", lambda path, to: Image.open(path).save(to, "PNG"), "same picture"),
    ],
)
def test_a_picture_that_is_scored_on_is_found_among_those_that_are_learned_from(
    ressa, folder, name, make, how
):
    make(folder / "val2014" / "COCO_val2014_000000000013.jpg", folder / "train2017" / "000000000005.jpg")
    said = ressa("data", "check", folder)
    assert said.status == 1
    assert "1 picture is both scored on and learned from" in said.sentence
    (leak,) = json.loads(ressa("data", "check", folder, "--json").out)["leaks"]
    assert leak["how"] == how
    assert leak["scored"][:2] == ["vqa", "val2014"]
    assert leak["scored"][2].endswith("COCO_val2014_000000000013.jpg")
    assert leak["learned"][2].endswith("train2017/000000000005.jpg")


def test_one_file_in_two_splits_is_found(ressa, tmp_path):
    """Karpathy's test pictures lie in val2014: a captions file of all of val2014 for training leaks them."""
    data = tmp_path / "coco"
    splits = {"train": range(2), "test": range(2, 4), "val": range(4, 6)}
    official.karpathy_coco(
        data,
        {split: ("train2014" if split == "train" else "val2014", some) for split, some in splits.items()},
    )
    for path in data.rglob("*.jpg"):
        photo(int(path.stem[-12:])).save(path)
    assert ressa("data", "check", data).status == 0
    content = json.loads((data / "dataset_coco.json").read_text())
    content["images"].append({**content["images"][2], "split": "restval"})
    (data / "dataset_coco.json").write_text(json.dumps(content))
    assert "1 picture is both scored on and learned from" in ressa("data", "check", data).sentence


def test_karpathys_splits_beside_cocos_own_are_told_and_no_fault(ressa, tmp_path):
    """Karpathy trains on most of val2014, and each is taken only where it is named."""
    official.coco(tmp_path, {"train2014": range(2), "val2014": range(2, 8)})
    splits = {"train": ("train2014", range(2)), "restval": ("val2014", range(2, 5))}
    official.karpathy_coco(
        tmp_path, {**splits, "test": ("val2014", range(5, 6)), "val": ("val2014", range(6, 8))}
    )
    for path in tmp_path.rglob("*.jpg"):
        photo(int(path.stem[-12:])).save(path)
    said = ressa("data", "check", tmp_path)
    assert said.status == 0, said.err
    assert "3 more pictures are in two splits that are read only where --split names them" in " ".join(
        said.out.split()
    )


def test_pictures_that_are_only_alike_are_no_leaks(tmp_path):
    """Scenes on plain grounds, which have much in common: none is taken for another."""
    from ressa.embedded.dataset import write_dataset

    data = write_dataset(tmp_path / "scenes", 0, {"train": 100, "test": 100}) or tmp_path / "scenes"
    found = audit(data)
    assert found.compared == 200
    assert [leak for leak in found.leaks if leak.how == "same picture"] == []


def test_pictures_of_one_colour_are_compared_by_their_bytes(tmp_path):
    """All of these are red, blue, green or white, of different sizes."""
    data = official.coco(tmp_path, {"train2017": range(4), "val2017": range(4, 8)})
    assert audit(data).leaks == []


def test_a_folder_without_a_dataset_is_wrong(ressa, tmp_path):
    (tmp_path / "empty").mkdir()
    said = ressa("data", "check", tmp_path / "empty")
    assert (said.status, "holds no dataset" in said.sentence) == (1, True)
    assert ressa("data", "check", tmp_path / "nowhere").status == 2


def test_the_list_names_every_dataset_with_its_licence_and_place(ressa):
    said = ressa("data", "list")
    assert said.status == 0
    assert all(name in said.out for name in DATASETS)
    for each in json.loads(ressa("data", "list", "--json").out)["datasets"]:
        assert each["licence"], each["name"]
        assert each["home"].startswith("https://")
        assert each["layout"]
        assert each["files"] or each["by_hand"]
        assert all(
            file["url"].startswith(("https://", "http://images.cocodataset.org")) for file in each["files"]
        )


def archive(files):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as zipped:
        for path in sorted(files.rglob("*")):
            if path.is_file():
                zipped.write(path, path.relative_to(files))
    return stream.getvalue()


def test_a_dataset_is_downloaded_unpacked_and_checked(ressa, tmp_path, monkeypatch):
    """From a server that cuts every connection; what is there already is not asked for again."""
    source = official.coco(tmp_path / "source", {"val2017": range(4)})
    with serving() as server:
        server.files["/cuts.zip"] = archive(source)
        tiny = Dataset(
            "tiny",
            "Tiny COCO",
            ("caption",),
            "CC0",
            "https://example.com",
            "",
            (Download(f"{server.url}/cuts.zip", 9000),),
        )
        monkeypatch.setitem(catalog.DATASETS, "tiny", tiny)
        monkeypatch.setattr("tests.data.obtaining.servers.PIECE", 3000)
        monkeypatch.setattr("ressa.data.obtaining.fetching.time.sleep", lambda _: None)
        said = ressa("data", "download", "tiny", "-o", tmp_path / "data")
        assert said.status == 0
        assert "1 of its 1 files are new" in said.out
        asked = len(server.requests)
        assert asked > 1
        assert "0 of its 1 files are new" in ressa("data", "download", "tiny", "-o", tmp_path / "data").out
        assert len(server.requests) == asked
    assert sorted(os.listdir(tmp_path / "data")) == [".ressa-downloads.json", "annotations", "val2017"]
    assert ressa("data", "check", tmp_path / "data").status == 0


def test_what_cannot_be_downloaded_says_why(ressa, tmp_path):
    said = ressa("data", "download", "flickr30k", "-o", tmp_path / "data")
    assert said.status == 2
    assert "fill in their form" in said.sentence
    said = ressa("data", "download", "coco", "-o", tmp_path / "data")
    assert said.status == 2
    assert "coco2014, coco2017" in said.sentence
    assert os.listdir(tmp_path) == []


def test_the_embedded_scenes_can_be_checked():
    from ressa.commands.data import check_folder

    found = check_folder("embedded", pictures=False, follow_links=False)
    assert {row[0] for row in found.tables[0].rows} >= {"vqa, test", "gqa, train"}
    assert not found.wrong
