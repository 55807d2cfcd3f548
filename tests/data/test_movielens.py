import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from sidrank.data import find_recbole_files, read_movielens
from tests.data.movielens_files import made_up, write_original, write_recbole


@pytest.fixture
def log():
    return made_up(users=5, items=6, rows=25)


class TestReading:
    def test_both_formats_say_the_same(self, tmp_path, log):
        original = read_movielens(write_original(tmp_path / "a", log))
        recbole = read_movielens(write_recbole(tmp_path / "b", log))
        for field in dataclasses.fields(original):
            one, other = getattr(original, field.name), getattr(recbole, field.name)
            assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other

    def test_says_what_was_written(self, tmp_path, log):
        data = read_movielens(write_recbole(tmp_path, log))
        rows = zip(data.user, data.item, data.rating, data.timestamp, strict=True)
        assert sorted(rows) == sorted(log["ratings"])
        assert data.titles[0] == "Film 0"
        assert data.years[0] == 1950
        assert data.genres[0] == log["items"][0][3]
        assert (data.ages[1], data.genders[1], data.occupations[1]) == log["users"][1][1:4]

    def test_order_does_not_depend_on_the_file(self, tmp_path, log):
        first = read_movielens(write_recbole(tmp_path / "a", log))
        log["ratings"].reverse()
        second = read_movielens(write_recbole(tmp_path / "b", log))
        assert np.array_equal(first.item, second.item)
        keys = [*zip(first.timestamp, first.user, first.item, strict=True)]
        assert keys == sorted(keys)

    def test_a_like_is_four_stars_or_more(self, tmp_path, log):
        data = read_movielens(write_recbole(tmp_path, log))
        assert data.label.tolist() == [int(rating >= 4) for rating in data.rating]

    def test_indices_lead_to_ids(self, tmp_path, log):
        data = read_movielens(write_recbole(tmp_path, log))
        assert np.array_equal(data.item_ids[data.item_index], data.item)
        assert np.array_equal(data.user_ids[data.user_index], data.user)

    def test_unknown_year_is_zero(self, tmp_path, log):
        item, title, _, genres = log["items"][2]
        log["items"][2] = (item, title, "unkonwn", genres)
        assert read_movielens(write_recbole(tmp_path, log)).years[2] == 0


class TestErrors:
    def test_no_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"data must be a folder, got .*nowhere"):
            read_movielens(tmp_path / "nowhere")

    @pytest.mark.parametrize("name", ["ml-100k.inter", "ml-100k.item", "ml-100k.user"])
    def test_missing_file(self, tmp_path, log, name):
        (write_recbole(tmp_path, log) / name).unlink()
        with pytest.raises(FileNotFoundError, match=f"got .* without {name}"):
            read_movielens(tmp_path)

    @pytest.mark.parametrize(
        ("file", "line"),
        [
            ("u.data", "1\t11\t3"),
            ("u.data", "1\t11\tmany\t880000000"),
            ("u.data", "1\t11\t6\t880000000"),
            ("u.item", "99|Film (1990)|01-Jan-1990||x|0|1"),
            ("u.user", "99|old|M|artist|1"),
        ],
    )
    def test_malformed_line_is_named(self, tmp_path, log, file, line):
        path = write_original(tmp_path, log) / file
        number = len(path.read_text().splitlines()) + 1
        with path.open("a") as stream:
            stream.write(line + "\n")
        with pytest.raises(ValueError, match=rf"{file} line {number} must be a row"):
            read_movielens(tmp_path)

    def test_wrong_header(self, tmp_path, log):
        path = write_recbole(tmp_path, log) / "ml-100k.inter"
        path.write_text(path.read_text().replace("rating:float", "stars:float", 1))
        with pytest.raises(ValueError, match=r"must start with the columns .*, got .*stars"):
            read_movielens(tmp_path)

    @pytest.mark.parametrize("file", ["ml-100k.inter", "ml-100k.item", "ml-100k.user"])
    def test_empty_file(self, tmp_path, log, file):
        (write_recbole(tmp_path, log) / file).write_text("")
        with pytest.raises(ValueError, match="must start with the columns"):
            read_movielens(tmp_path)

    def test_no_rating(self, tmp_path, log):
        log["ratings"] = []
        with pytest.raises(ValueError, match="must hold at least one rating, got none"):
            read_movielens(write_recbole(tmp_path, log))

    def test_id_twice(self, tmp_path, log):
        log["items"].append(log["items"][0])
        with pytest.raises(ValueError, match="must name each id once, got 11 twice"):
            read_movielens(write_recbole(tmp_path, log))

    @pytest.mark.parametrize(("row", "name"), [((1, 999, 3, 1), "item"), ((777, 11, 3, 1), "user")])
    def test_rating_of_something_unknown(self, tmp_path, log, row, name):
        log["ratings"].append(row)
        with pytest.raises(ValueError, match=f"must rate only {name}s of the {name} file, got"):
            read_movielens(write_recbole(tmp_path, log))

    def test_no_recbole(self, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
        with pytest.raises(FileNotFoundError, match="pip install --no-deps recbole"):
            find_recbole_files()


def test_recbole_is_found_and_not_imported():
    code = (
        "import sys; from sidrank.data import read_movielens;"
        "data = read_movielens();"
        "print(len(data.user), len(data.item_ids), 'recbole' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "recbole must be installed" in done.stderr:
        pytest.skip("recbole is not installed")
    assert done.stdout.split() == ["100000", "1682", "False"]
