"""Only regular files are read; everything else is one line."""

from __future__ import annotations

import os

import pytest

from opdiff.graphs.errors import InputError
from opdiff.graphs.reading import contents, is_regular, text_in


def test_file_and_a_link_to_one_are_read(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "link").symlink_to("a")
    assert contents(tmp_path / "a", "x") == contents(tmp_path / "link", "x") == b"one"
    assert is_regular(tmp_path / "link")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: None])
def test_what_is_no_file_is_refused_at_once(make, tmp_path):
    make(tmp_path / "a")
    assert not is_regular(tmp_path / "a")
    with pytest.raises(InputError, match=r"/a: .*; give another$"):
        contents(tmp_path / "a", "give another")


def test_text_that_is_not_utf8_is_refused_and_a_mark_before_it_is_no_part_of_it(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbf{}")
    assert text_in(tmp_path / "a", "x") == "{}"
    (tmp_path / "a").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not UTF-8"):
        text_in(tmp_path / "a", "x")
