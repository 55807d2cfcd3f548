import pytest
import torch
import torchrec.optim
from torchrec.modules.embedding_configs import EmbeddingBagConfig

from sidrank.cache.row_optimizer import RowOptimizer, new_rows, weight_rows


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RMSprop])
def test_optimizers_that_are_not_of_the_row(kind):
    with pytest.raises(ValueError, match=f"kind must be SGD, .*, got {kind.__name__}"):
        RowOptimizer(kind, lr=0.1)


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan")])
def test_learning_rates(lr):
    with pytest.raises(ValueError, match=f"lr must be above 0, got {lr}"):
        RowOptimizer(torch.optim.SGD, lr=lr)


def test_eps():
    with pytest.raises(ValueError, match="eps must be at least 0, got -1"):
        RowOptimizer(torch.optim.SGD, lr=1.0, eps=-1)


@pytest.mark.parametrize(
    ("kind", "width"),
    [(torch.optim.SGD, 8), (torchrec.optim.RowWiseAdagrad, 9), (torch.optim.Adagrad, 16)],
)
def test_rows_hold_the_weight_and_the_state(kind, width):
    rule = RowOptimizer(kind, lr=0.1)
    weight = torch.arange(24.0).view(3, 8)
    block = weight_rows(weight, rule)(1, 3)
    assert block.shape == (2, width) == (2, rule.row_width(8))
    assert torch.equal(block[:, :8], weight[1:3])
    assert not block[:, 8:].any()


def test_new_rows_are_the_tables_own():
    config = EmbeddingBagConfig(
        name="t", embedding_dim=4, num_embeddings=9, init_fn=lambda weight: weight.fill_(2.0)
    )
    block = new_rows(config, RowOptimizer(torchrec.optim.RowWiseAdagrad, lr=0.1))(3, 5)
    assert block.tolist() == [[2.0, 2.0, 2.0, 2.0, 0.0]] * 2


def test_weights_of_another_shape():
    with pytest.raises(ValueError, match=r"weight must have shape \[rows, D\], got \[3\]"):
        weight_rows(torch.ones(3), RowOptimizer(torch.optim.SGD, lr=0.1))
