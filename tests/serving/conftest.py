"""Rankers that are exported once for all tests of the room."""

import pytest

from sidrank.serving.export import export_ranker
from sidrank.serving.exported_ranker import load_ranker
from tests.serving import exports


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    """By name: the model, the folder and what was read back. Nobody writes to them."""
    known = {}

    def of(name):
        if name not in known:
            model, requests = exports.ranker(name)
            folder = tmp_path_factory.mktemp("exported") / name
            export_ranker(model, requests, folder)
            known[name] = (model, folder, load_ranker(folder))
        return known[name]

    return of
