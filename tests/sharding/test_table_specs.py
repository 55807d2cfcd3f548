"""A list of tables, and the model that stands for it."""

import pytest
import torch
import torchrec.optim
from torchrec import EmbeddingBagCollection, EmbeddingCollection
from torchrec.modules.embedding_configs import DataType, PoolingType

from sidrank.cache.sizes import TableShape
from sidrank.sharding.cached_tables import table_shapes
from sidrank.sharding.table_specs import TableSpec, model_of, pooling_constraints

SPECS = [
    TableSpec("a", 10, 8, ("f", "g"), pooling="mean", pooling_factors=(1.0, 3.5), dtype="fp16"),
    TableSpec("b", 20, 16, ("f",), pooling="none", optimizer="adam"),
    TableSpec("c", 30, 32, ("h",), pooling="none", optimizer="sgd"),
]


def test_the_model_is_torchrecs_own():
    model = model_of(SPECS)
    assert [type(part) for part in model.values()] == [
        EmbeddingBagCollection,
        EmbeddingCollection,
        EmbeddingCollection,
    ]
    (config,) = model["bags"].embedding_bag_configs()
    assert (config.num_embeddings, config.embedding_dim) == (10, 8)
    assert config.feature_names == ["f", "g"]
    assert (config.pooling, config.data_type) == (PoolingType.MEAN, DataType.FP16)
    weights = list(model.parameters())
    assert all(weight.device == torch.device("meta") for weight in weights)
    assert [weight._optimizer_classes[0] for weight in weights] == [
        torchrec.optim.RowWiseAdagrad,
        torch.optim.Adam,
        torch.optim.SGD,
    ]


def test_the_bytes_are_those_of_the_list():
    assert table_shapes(model_of(SPECS)) == {
        "a": TableShape("a", 10, 8, 2, 1, 0),
        "b": TableShape("b", 20, 16, 4, 0, 2),
        "c": TableShape("c", 30, 32, 4, 0, 0),
    }


def test_pooling_factors_reach_the_planner():
    found = {name: each.pooling_factors for name, each in pooling_constraints(SPECS).items()}
    assert found == {"a": [1.0, 3.5], "b": [1.0], "c": [1.0]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": ""}, "name must not be empty or hold a dot"),
        ({"name": "a.b"}, "name must not be empty or hold a dot, got 'a.b'"),
        ({"rows": 0}, "rows must be at least 1, got 0"),
        ({"dim": 6}, "dim must be a multiple of 4, got 6"),
        ({"dim": 0}, "dim must be a multiple of 4, got 0"),
        ({"features": ()}, "features must be one or more, each once"),
        ({"features": ("f", "f")}, "features must be one or more, each once"),
        ({"pooling_factors": (1.0, 2.0)}, "pooling_factors must be 1 numbers above 0"),
        ({"pooling_factors": (0.0,)}, "pooling_factors must be 1 numbers above 0"),
        ({"pooling": "max"}, "pooling must be one of sum, mean, none, got max"),
        ({"dtype": "int3"}, "dtype must be one of fp32, fp16, bf16, got int3"),
        ({"optimizer": "magic"}, "optimizer must be one of sgd, .*, got magic"),
    ],
)
def test_what_a_table_cannot_be(change, words):
    with pytest.raises(ValueError, match=words):
        TableSpec(**{"name": "t", "rows": 4, "dim": 4, "features": ("f",), **change})


def test_no_table_and_two_of_one_name():
    with pytest.raises(ValueError, match="specs must be of one table or more, each once, got none"):
        model_of([])
    with pytest.raises(ValueError, match=r"each once, got \['a'\]"):
        model_of([SPECS[0], SPECS[0]])
