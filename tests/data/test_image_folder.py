"""From the names and numbers in annotation files to picture files: whose numbers, and nothing outside the folder."""

import os

import pytest
from PIL import Image

from ressa.data import DatasetFolder
from ressa.data.image_folder import ImageFolder
from ressa.data.numbering import Numbering
from ressa.errors import UsageError
from tests.data.tiny_folders import image_name, tiny_dataset, write


@pytest.fixture
def folder(tmp_path):
    return tiny_dataset(tmp_path / "tiny")


def pictures(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, "PNG")
    return ImageFolder(folder)


def found(numbering, *keys):
    return [numbering.find(key).name for key in keys]


# -- names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["x.gif", "x.tif", "x.TIFF", "x.JPG", "x", "x.avif", "a b.png", "ü.jpg", ".x"]
)
def test_a_name_with_any_suffix_is_found(tmp_path, name):
    assert pictures(tmp_path, name).named(name) == tmp_path / name


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("train2014/x.jpg", "images/val/train2014/x.jpg"),
        ("train2014/x.jpg", "images/train2014/x.jpg"),
        ("images/train2014/x.jpg", "images/train2014/x.jpg"),
        ("train2014/x.jpg", "images/val/x.jpg"),
        ("train2014\\x.jpg", "images/val/train2014/x.jpg"),
        ("./x.jpg", "images/val/x.jpg"),
    ],
)
def test_a_name_with_folders_is_found_wherever_they_begin(tmp_path, name, place):
    pictures(tmp_path, place, "images/val/other.jpg")
    assert ImageFolder(tmp_path / "images" / "val", tmp_path).named(name).resolve() == tmp_path / place


def test_an_absolute_name_within_the_folder_is_found(tmp_path):
    assert pictures(tmp_path, "x.jpg").named(str(tmp_path / "x.jpg")) == tmp_path / "x.jpg"


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/passwd", "..", "x\0.png", ""])
def test_a_name_that_leads_out_is_refused(tmp_path, name):
    inner = pictures(tmp_path / "inner", "a/y.png")
    pictures(tmp_path, "x.png")
    with pytest.raises(UsageError, match=r"not in the data folder|broken Unicode|is empty"):
        inner.named(name)


@pytest.mark.parametrize("name", ["gone.png", "a/" * 3000 + "x.png", "x" * 9000])
def test_a_name_that_is_not_there_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="does not exist"):
        pictures(tmp_path, "sub/x.png").named(name)


def test_what_is_no_regular_file_is_refused(tmp_path):
    folder = pictures(tmp_path, "x.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "ring.png").symlink_to(tmp_path / "ring.png")
    (tmp_path / "broken.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(UsageError, match="is a folder, a pipe or a device"):
            folder.named(name)
    for name in ("ring.png", "broken.png"):
        with pytest.raises(UsageError, match="link to a file that does not exist"):
            folder.named(name)


def test_a_picture_that_was_converted_is_pointed_at(tmp_path):
    with pytest.raises(UsageError, match=r"x\.jpg does not exist, .*\(there is x\.webp\)"):
        pictures(tmp_path, "x.webp").named("x.jpg")


# -- links -------------------------------------------------------------------------------------------------


def test_a_link_within_the_folder_is_followed_and_one_that_leads_out_only_on_request(tmp_path):
    outside = pictures(tmp_path / "outside", "secret.png").path / "secret.png"
    folder = pictures(tmp_path / "data", "x.png").path
    (folder / "inside.png").symlink_to("x.png")
    (folder / "out.png").symlink_to(outside)
    assert ImageFolder(folder).named("inside.png") == folder / "inside.png"
    with pytest.raises(UsageError, match=r"out\.png is a link that leads out .*--follow-links"):
        ImageFolder(folder).named("out.png")
    assert ImageFolder(folder, follow_links=True).named("out.png") == folder / "out.png"


@pytest.mark.parametrize("linked", ["images", "images/test", "captions_test.json", "questions_test.json"])
def test_whatever_of_a_data_set_is_a_link_out_of_it_needs_the_request(folder, tmp_path, linked):
    away = tmp_path / "away"
    (folder / linked).rename(away)
    (folder / linked).symlink_to(away)

    def read(**options):
        data = DatasetFolder(folder, **options)
        return data.samples("vqa", "test") if linked.startswith("q") else data.samples("caption", "test")

    with pytest.raises(UsageError, match="leads out of the data folder"):
        read()
    assert len(read(follow_links=True)) == 4


def test_the_data_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert len(DatasetFolder(tmp_path / "link").samples("caption", "test")) == 4


@pytest.mark.parametrize("split", ["../tiny", "a/b", "..", "", "x" * 300, "a\0"])
def test_a_split_cannot_lead_elsewhere(folder, split):
    for read in ("caption", "vqa", "gqa", "retrieval"):
        with pytest.raises(UsageError, match="a split cannot be called"):
            DatasetFolder(folder).samples(read, split)


# -- numbers -----------------------------------------------------------------------------------------------

COCO = [f"COCO_val2014_{number:012d}.jpg" for number in (1, 2, 3)]
GENOME = ["1.jpg", "2.jpg", "3.jpg"]
KEYS = ["1", "2", "3"]


def test_each_data_set_finds_its_own_pictures_among_another_ones(tmp_path):
    folder = pictures(tmp_path, *COCO, *GENOME)
    names = dict(zip(KEYS, COCO, strict=True))
    for listed in (names, {}):
        assert found(Numbering("COCO", folder, KEYS, listed), *KEYS) == COCO
        assert found(Numbering("Visual Genome", folder, KEYS, listed), *KEYS) == GENOME


@pytest.mark.parametrize("own", ["COCO", "Visual Genome"])
def test_one_numbering_for_all_is_that_of_the_captions_file(tmp_path, own):
    names = {"1": "b.png", "2": "a.png"}
    folder = pictures(tmp_path, *names.values())
    assert found(Numbering(own, folder, ["1", "2"], names), "1", "2") == ["b.png", "a.png"]


def test_coco_numbers_are_found_in_every_way_that_files_are_named(tmp_path):
    for names in (["000000000007.jpg"], ["7.png"], ["picture-7.gif"], ["000007.jpg"]):
        place = tmp_path / names[0]
        assert found(Numbering("COCO", pictures(place, *names), ["7"]), "7") == names


def test_a_missing_picture_is_not_another_data_sets(tmp_path):
    folder = pictures(tmp_path, *COCO, "1.jpg", "n7.jpg")
    genome = Numbering("Visual Genome", folder, ["1", "7"], {})
    assert found(genome, "1") == ["1.jpg"]
    with pytest.raises(UsageError, match="no image for id 7"):
        genome.find("7")
    coco = Numbering("COCO", pictures(tmp_path / "b", COCO[0], "2.jpg"), KEYS, {})
    assert found(coco, "1") == COCO[:1]
    with pytest.raises(UsageError, match="no image for id 2"):
        coco.find("2")


def test_a_few_numbers_in_common_do_not_make_a_data_set(tmp_path):
    folder = pictures(tmp_path, "1.jpg", "2.jpg")
    asked = [str(number) for number in range(1, 11)]
    for key in asked:
        with pytest.raises(UsageError, match="no image for id"):
            Numbering("COCO", folder, asked).find(key)


def test_what_could_be_either_is_refused(tmp_path):
    folder = pictures(tmp_path, *COCO, *GENOME[:2])
    with pytest.raises(UsageError, match=r"image 1 .*may be 1\.jpg.* or COCO_val.*a folder of its own"):
        Numbering("Visual Genome", folder, KEYS, dict(zip(KEYS, COCO, strict=True)))
    twice = Numbering("COCO", pictures(tmp_path / "b", "7.jpg", "7.png"), ["7"])
    with pytest.raises(UsageError, match=r"image 7 may be 7\.jpg or 7\.png"):
        twice.find("7")


def test_files_beside_the_pictures_are_no_pictures(tmp_path):
    folder = pictures(tmp_path, "7.jpg")
    for name in ("7.json", "7.txt"):
        (tmp_path / name).write_text("7")
    assert found(Numbering("Visual Genome", folder, ["7"]), "7") == ["7.jpg"]


def test_gqa_may_have_its_pictures_apart(folder):
    pictures(folder / "images" / "gqa", "0.jpg", "1.jpg", "2.jpg", "3.jpg")
    data = DatasetFolder(folder)
    assert data.samples("gqa", "test")[0].image == folder / "images" / "gqa" / "0.jpg"
    assert data.samples("vqa", "test")[0].image == folder / "images" / "test" / image_name(0)


def test_a_split_that_is_missing_is_told_with_those_that_are_there(folder):
    write(folder / "captions_train.json", {"images": [], "annotations": []})
    with pytest.raises(
        UsageError, match=r"has no caption in the split 'val': .* \(there is test and train\)"
    ):
        DatasetFolder(folder).samples("caption", "val")
