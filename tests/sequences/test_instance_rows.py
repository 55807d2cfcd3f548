import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidrank.sequences.instance_rows import (
    InstanceSpec,
    instance_ids,
)
from tests.sequences import reference_instances as reference
from tests.strategies import ANY_IDS


class TestIds:
    @given(st.lists(st.tuples(ANY_IDS, ANY_IDS, ANY_IDS), max_size=6))
    def test_equal_the_definition(self, rows):
        columns = np.array(rows, dtype=np.int64).reshape(-1, 3).T
        assert instance_ids(*columns).tolist() == [reference.instance_id(*row) for row in rows]

    def test_every_part_and_its_place_count(self):
        grid = np.stack(np.meshgrid(*[np.arange(-8, 8)] * 3), axis=-1).reshape(-1, 3)
        assert len(set(instance_ids(*grid.T).tolist())) == 16**3

    def test_errors(self):
        with pytest.raises(ValueError, match=r"one shape \[n\], got \[1\], \[2\], \[1\]"):
            instance_ids([1], [1, 2], [1])
        with pytest.raises(TypeError, match="creatives must be integers, got float64"):
            instance_ids([1], [1.5], [1])


class TestSpec:
    @pytest.mark.parametrize("value", ["", "x" * 201, 7])
    def test_model_version(self, value):
        with pytest.raises(ValueError, match="model_version must be 1 to 200 characters, got"):
            InstanceSpec(model_version=value)

    @pytest.mark.parametrize(
        ("name", "value", "least"),
        [("dim", 0, 1), ("dim", 2.0, 1), ("dim", True, 1), ("num_sides", -1, 0)],
    )
    def test_sizes(self, name, value, least):
        message = f"{name} must be an integer of at least {least}, got {value}"
        with pytest.raises(ValueError, match=message):
            InstanceSpec(**{"model_version": "7", name: value})

    def test_precision(self):
        with pytest.raises(ValueError, match="precision must be 'float32' or 'float16', got 'x'"):
            InstanceSpec(model_version="7", precision="x")
