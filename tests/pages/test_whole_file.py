import os
import stat

import pytest

from sidrank.pages import write_whole


def test_new_and_old_files(tmp_path):
    path = tmp_path / "page.html"
    assert write_whole(path, "größe") == path
    assert path.read_text(encoding="utf-8") == "größe"
    write_whole(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "page.html"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError, match="surrogates not allowed"):
        write_whole(path, "half\udcff")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_whole(tmp_path / "nowhere" / "page.html", "")


def test_a_link_stays_a_link(tmp_path):
    path, link = tmp_path / "page.html", tmp_path / "link.html"
    path.write_text("old")
    link.symlink_to(path)
    assert write_whole(link, "new") == link
    assert link.is_symlink()
    assert path.read_text() == "new"


def test_what_is_no_file_is_not_replaced(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for place in (pipe, tmp_path):
        with pytest.raises(OSError, match=r"path must be a file, got .* something else"):
            write_whole(place, "")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert list(tmp_path.iterdir()) == [pipe]
