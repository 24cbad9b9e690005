"""Text from files: without its markup, in passages of a length."""

import pytest

from ressa.checkpoint import load
from ressa.data.plain_text import passages, read_text
from ressa.errors import UsageError
from ressa.warned import recorded


def test_a_folder_is_read_in_order_without_its_markup(tmp_path):
    (tmp_path / "b.html").write_text("<head>no</head><p>two &amp;\n  three</p><script>x()</script>")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\n\n")
    (tmp_path / "c.png").write_bytes(b"no text")
    assert read_text(tmp_path) == "one\n\ntwo & three"
    assert read_text(tmp_path / "a.txt") == "one"


@pytest.mark.parametrize("name", ["missing.txt", "empty"])
def test_where_there_is_no_text_that_is_said(name, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no text"):
        read_text(tmp_path / name)


def test_passages_have_their_length_and_do_not_overlap():
    tokenizer = load("embedded-llava").processor.tokenizer
    text = " ".join(f"There are {number} red apples on a green table." for number in range(200))
    found = passages(text, tokenizer, 7, 20, seed=1)
    assert found == passages(text, tokenizer, 7, 20, seed=1) != passages(text, tokenizer, 7, 20, seed=2)
    places = [text.index(passage) for passage in found]
    assert places == sorted(places)
    assert all(
        place + len(passage) <= after
        for place, passage, after in zip(places, found, places[1:], strict=False)
    )
    lengths = [len(tokenizer(passage, add_special_tokens=False)["input_ids"]) for passage in found]
    assert all(abs(length - 20) <= 1 for length in lengths)


def test_a_short_text_gives_what_it_has():
    tokenizer = load("embedded-llava").processor.tokenizer
    with recorded() as said:
        assert len(passages("a red apple " * 10, tokenizer, 50, 5)) >= 3
    assert "50 passages" in said[0]
    with pytest.raises(UsageError, match="fewer than a passage"):
        passages("apple", tokenizer, 1, 500)
