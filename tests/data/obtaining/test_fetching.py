"""A download is the file or an error, whatever the server does. The server is real, on this machine."""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ressa.data.obtaining import fetching
from ressa.data.obtaining.fetching import fetch
from ressa.errors import RunError, UsageError
from tests.data.obtaining.servers import CONTENT, PIECE, SHA256, serving


@pytest.fixture
def server():
    with serving() as state:
        yield state


def get(server, way, folder, **options):
    waits = []
    path = fetch(f"{server.url}/{way}.bin", folder / "file.bin", sleep=waits.append, **options)
    assert os.listdir(folder) == ["file.bin"]  # nothing else is left
    return path.read_bytes(), waits


@pytest.mark.parametrize("digest", ["", SHA256, SHA256.upper().replace("SHA256", "sha256")])
def test_a_file_is_brought_whole(server, tmp_path, digest):
    assert get(server, "plain", tmp_path, digest=digest) == (CONTENT, [])
    assert server.ranges() == [""]


def test_what_is_cut_off_goes_on_where_it_was(server, tmp_path):
    content, waits = get(server, "cuts", tmp_path)
    assert content == CONTENT
    assert server.ranges() == ["", f"bytes={PIECE}-", f"bytes={2 * PIECE}-"]
    assert server.sent == len(CONTENT)
    assert waits == [1.0, 1.0]  # each brought something


def test_a_later_run_goes_on_where_an_interrupted_one_was(server, tmp_path):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(f"{server.url}/cuts.bin", tmp_path / "file.bin", sleep=interrupt)
    assert not (tmp_path / "file.bin").exists()
    assert get(server, "cuts", tmp_path)[0] == CONTENT
    assert server.sent == len(CONTENT)


def test_another_address_does_not_go_on_with_this_ones_bytes(server, tmp_path):
    def interrupt(_):
        raise KeyboardInterrupt

    server.files["/plain.bin"] = b"other" * 50_000
    with pytest.raises(KeyboardInterrupt):
        fetch(f"{server.url}/cuts.bin", tmp_path / "file.bin", sleep=interrupt)
    assert get(server, "plain", tmp_path)[0] == b"other" * 50_000


def test_a_server_that_ignores_ranges_is_asked_for_all_of_it(server, tmp_path):
    assert get(server, "ignores-ranges", tmp_path)[0] == CONTENT
    assert server.ranges() == ["", f"bytes={PIECE}-"]


def test_without_a_validator_a_download_begins_anew_unless_the_digest_is_known(server, tmp_path):
    with pytest.raises(
        RunError, match=r"broke off 6 times in a row \(it ended after 100,000 of 300,000 bytes\)"
    ):
        get(server, "cuts-without-a-tag", tmp_path)
    assert set(server.ranges()) == {""}
    server.requests.clear()
    assert get(server, "cuts-without-a-tag", tmp_path, digest=SHA256)[0] == CONTENT
    assert f"bytes={2 * PIECE}-" in server.ranges()


def test_a_server_that_brings_nothing_new_is_given_up(server, tmp_path):
    waits = []
    with pytest.raises(RunError, match=r"broke off 6 times in a row .*goes on where it was"):
        fetch(f"{server.url}/stalls.bin", tmp_path / "file.bin", sleep=waits.append)
    assert waits == sorted(waits)
    assert not (tmp_path / "file.bin").exists()


def test_a_length_that_is_never_reached_is_an_error(server, tmp_path):
    with pytest.raises(RunError, match="broke off"):
        get(server, "promises-more", tmp_path)
    assert not (tmp_path / "file.bin").exists()


def test_a_length_that_is_too_small_is_found_by_the_digest(server, tmp_path):
    with pytest.raises(RunError, match="serves other bytes than it did: their sha256 is"):
        get(server, "promises-less", tmp_path, digest=SHA256)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("way", ["changes", "changes-and-hides-it"])
def test_a_file_that_changes_meanwhile_is_brought_anew(server, tmp_path, way):
    assert get(server, way, tmp_path)[0] == CONTENT


def test_other_bytes_than_the_known_ones_are_refused_and_not_kept(server, tmp_path):
    server.files["/plain.bin"] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(RunError, match="serves other bytes than it did"):
        get(server, "plain", tmp_path, digest=SHA256)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("way", "sentence"),
    [
        ("another-part", "answers with another part of the file than was asked for"),
        ("page", "answers with a web page and not with the file"),
        ("gone", "cannot be had: the server answers 404 Not Found"),
        ("to-a-file", "302"),
    ],
)
def test_what_no_second_try_mends_is_told_at_once(server, tmp_path, way, sentence):
    with pytest.raises(RunError, match=sentence):
        get(server, way, tmp_path)
    assert not (tmp_path / "file.bin").exists()


def test_a_busy_server_is_waited_for_as_long_as_it_says(server, tmp_path):
    assert get(server, "busy", tmp_path) == (CONTENT, [7.0, 7.0])


def test_a_move_is_followed(server, tmp_path):
    assert get(server, "moved", tmp_path)[0] == CONTENT


def test_a_file_of_unknown_length_is_known_to_be_whole_by_its_last_chunk(server, tmp_path):
    assert get(server, "chunked", tmp_path)[0] == CONTENT
    assert len(server.requests) == 2


def test_no_server_and_no_web_address(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "TRIES", 2)
    with pytest.raises(RunError, match=r"broke off 2 times in a row .*refused"):
        fetch("http://127.0.0.1:9/file.bin", tmp_path / "file.bin", sleep=lambda _: None)
    with pytest.raises(UsageError, match="is no address of a file on the web"):
        fetch("file:///etc/hostname", tmp_path / "file.bin")


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(1, 299_999), min_size=1, max_size=4))
def test_wherever_it_was_cut_the_file_is_the_same(tmp_path_factory, cuts):
    """What an earlier run left is as long as the cut; the note is the server's."""
    folder = tmp_path_factory.mktemp("cut")
    with serving() as server:
        for cut in cuts:
            (folder / ".file.bin.part").write_bytes(CONTENT[:cut])
            note = f'{{"url": "{server.url}/plain.bin", "validator": "\\"one\\"", "length": 300000}}'
            (folder / ".file.bin.part.json").write_text(note)
            assert get(server, "plain", folder, digest=SHA256)[0] == CONTENT
            (folder / "file.bin").unlink()
        assert server.sent == sum(len(CONTENT) - cut for cut in cuts)
