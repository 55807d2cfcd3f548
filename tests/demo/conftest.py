import pytest

from sidrank.data import read_movielens
from sidrank.demo.preparation import prepare
from sidrank.demo.settings import VectorRecipe
from tests.data.movielens_files import made_up, write_recbole


@pytest.fixture(scope="session")
def log_folder(tmp_path_factory):
    return write_recbole(tmp_path_factory.mktemp("movielens"), made_up())


@pytest.fixture(scope="session")
def log(log_folder):
    return read_movielens(log_folder)


@pytest.fixture(scope="session")
def fold(log):
    return prepare(log, "cold_items", 0, VectorRecipe(levels=(4, 4)))
