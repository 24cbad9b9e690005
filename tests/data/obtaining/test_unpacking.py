"""Archives of datasets are unpacked whole or not at all, and never anywhere else."""

import io
import os
import stat
import tarfile
import zipfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ressa.data.obtaining import unpacking
from ressa.data.obtaining.unpacking import unpack
from ressa.errors import RunError

FILES = {"val2014/1.jpg": b"one", "val2014/2.jpg": b"two" * 1000, "annotations/a.json": b"{}"}


def zipped(path, files=FILES, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content, **options)
    return path


def tarred(path, files=FILES, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def below(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.zip", zipped),
        ("a.tar", tarred),
        ("a.tar.gz", lambda path: tarred(path, mode="w:gz")),
        ("a.tgz", lambda path: tarred(path, mode="w:gz")),
    ],
)
def test_files_come_beside_what_is_there(tmp_path, name, make):
    folder = tmp_path / "data"
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "b.json").write_bytes(b"[]")
    (folder / "annotations" / "a.json").write_bytes(b"old")
    assert unpack(make(tmp_path / name), folder) == 3
    assert below(folder) == {**FILES, "annotations/b.json": b"[]"}


@pytest.mark.parametrize(
    "name", ["../out", "a/../../out", "/etc/out", "..\\out", "C:\\out", "a/" + "x" * 300]
)
@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_name_that_leads_out_unpacks_nothing(tmp_path, name, make):
    path = make(tmp_path / ("a.zip" if make is zipped else "a.tar"), {"good": b"1", name: b"2"})
    with pytest.raises(RunError, match="leads out of the folder"):
        unpack(path, tmp_path / "in" / "data")
    assert below(tmp_path / "in") == {}
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "in" / "out").exists()


def test_links_and_devices_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        entry = zipfile.ZipInfo("link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        member = tarfile.TarInfo("device")
        member.type = tarfile.CHRTYPE
        tar.addfile(member)
    for name in ("a.zip", "b.tar", "c.tar"):
        with pytest.raises(RunError, match="holds a link or device"):
            unpack(tmp_path / name, tmp_path / "data")
    assert below(tmp_path / "data") == {}


def test_bombs_are_bounded_by_what_they_announce_and_what_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacking, "SPARE", 10_000)
    bomb = zipped(tmp_path / "a.zip", {"zeros": bytes(10_000_000)})
    assert bomb.stat().st_size < 20_000
    with pytest.raises(RunError, match="unpacks to far more than its size tells"):
        unpack(bomb, tmp_path / "data")
    # One that announces ten bytes and holds more is stopped by its own announcement.
    content = bytearray(bomb.read_bytes())
    for place in (content.find(b"PK\x03\x04") + 22, content.find(b"PK\x01\x02") + 24):
        content[place : place + 4] = (10).to_bytes(4, "little")
    bomb.write_bytes(bytes(content))
    with pytest.raises(RunError, match=r"damaged|more than it announces"):
        unpack(bomb, tmp_path / "data")
    assert below(tmp_path / "data") == {}
    monkeypatch.setattr(unpacking, "MOST", 2)
    with pytest.raises(RunError, match="far more"):
        unpack(zipped(tmp_path / "b.zip"), tmp_path / "data")


def test_an_encrypted_archive_says_so(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a": b"1"})
    content = bytearray(path.read_bytes())
    content[content.find(b"PK\x03\x04") + 6] |= 1
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(content))
    with pytest.raises(RunError, match="cannot be unpacked: it is encrypted"):
        unpack(path, tmp_path / "data")


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "val2014").write_bytes(b"")
    with pytest.raises(RunError, match=r"is a file where .* has a folder"):
        unpack(zipped(tmp_path / "a.zip"), tmp_path / "data")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_damaged_archive_unpacks_to_what_it_held_or_to_nothing(tmp_path_factory, data):
    """One byte is another one, or the end is cut off."""
    folder = tmp_path_factory.mktemp("damaged")
    kind = data.draw(st.sampled_from(["a.zip", "a.tar", "a.tar.gz"]))
    path = folder / kind
    (zipped(path) if kind == "a.zip" else tarred(path, mode="w:gz" if kind.endswith("gz") else "w"))
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    try:
        count = unpack(path, folder / "data")
    except RunError:
        assert below(folder / "data") == {}
    else:
        assert count == len(below(folder / "data"))
    assert os.listdir(folder) in ([kind], [kind, "data"], ["data", kind])
