"""Seeds, hypothesis profile, devices and the ranks of the whole test suite."""

import random

import hypothesis
import numpy as np
import pytest
import torch

from tests.ranks import Ranks

hypothesis.settings.register_profile(
    "sidrank", deadline=None, derandomize=True, max_examples=50, print_blob=True
)
hypothesis.settings.load_profile("sidrank")


class _TorchRandom:
    """Lets hypothesis seed torch before every example, as it does for random and numpy."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


_torch_random = _TorchRandom()  # hypothesis keeps a weak reference
hypothesis.register_random(_torch_random)


def pytest_configure():
    torch.set_num_threads(1)  # sums in the same order on every machine


def pytest_collection_modifyitems(items):
    no_gpu = pytest.mark.skip(reason="needs a CUDA device, and torch sees none here")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if {"ranks", "one_rank"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.distributed)


@pytest.fixture(autouse=True)
def seed():
    """Every test starts from the same random state."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Each device in turn; the GPU skips where there is none."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def ranks():
    """Two gloo processes, see tests/ranks.py."""
    two = Ranks(world_size=2)
    yield two
    two.close()


@pytest.fixture(scope="session")
def one_rank():
    """A process group of one, for checkpoints that change the number of ranks."""
    one = Ranks(world_size=1)
    yield one
    one.close()
