r"""What a planted log's users like: a tree of tastes that no scalar of an item explains.

Users and items sit at leaves of the same tree. At each depth ``d`` every node has a direction for
items, :math:`g`, and one for users, :math:`h`, in ``RANK`` dimensions of that depth, and

.. math:: \mathrm{taste}(u, v) = \sum_d \langle h_{u, \le d},\; g_{v, \le d} \rangle .

All :math:`g` of a depth have one length and the :math:`h` of all users are centred and whitened, so
every item has, over the users, a mean taste of exactly 0 and a variance of exactly 1: what an
item is liked by on average tells nothing of its place in the tree.

Shapes: ``V`` items, ``U`` users, ``R`` rows, ``D`` width of the item vectors.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["BRANCHES", "DEPTH_SHARES", "RANK", "Tastes", "item_vectors", "plant_tastes"]

BRANCHES = (8, 8, 8)
RANK = 4
DEPTH_SHARES = (0.5, 0.3, 0.2)  # of the variance of a taste
_QUALITY_SCALE = 0.5  # of the vector's quality direction; a taste has length 1

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Tastes(NamedTuple):
    """The tree, and who sits where."""

    item_codes: Ints
    """Branch of each item at each depth, shape ``[V, 3]``."""
    user_codes: Ints
    """Branch of each user at each depth, shape ``[U, 3]``."""
    item_directions: Floats
    """:math:`g` of each item, depths one after the other, shape ``[V, 3 × RANK]``."""
    user_directions: Floats
    """:math:`h` of each user, shape ``[U, 3 × RANK]``."""

    def of(self, user: Ints, item: Ints) -> Floats:
        """Taste of users for items; mean 0 and variance 1 over the users for each item.

        Args:
            user: Positions of users, shape ``[R]``.
            item: Positions of items, shape ``[R]``.

        Returns:
            The tastes, shape ``[R]``.
        """
        taste = np.zeros(len(user))
        for column in range(self.item_directions.shape[1]):
            taste += self.user_directions[user, column] * self.item_directions[item, column]
        return taste


def plant_tastes(draws: np.random.Generator, *, items: int, user_weight: Floats) -> Tastes:
    """Grow the tree and put everybody into it.

    Args:
        draws: Source of chance.
        items: Number of items, ``V``.
        user_weight: Share of each user in the impressions, shape ``[U]``.

    Returns:
        The tastes.
    """
    item_codes = draws.integers(0, BRANCHES, (items, len(BRANCHES)))
    user_codes = draws.integers(0, BRANCHES, (len(user_weight), len(BRANCHES)))
    item_parts: list[Floats] = []
    user_parts: list[Floats] = []
    item_node = np.zeros(items, np.int64)
    user_node = np.zeros(len(user_weight), np.int64)
    nodes = 1
    for depth, (branches, share) in enumerate(zip(BRANCHES, DEPTH_SHARES, strict=True)):
        nodes *= branches
        item_node = item_node * branches + item_codes[:, depth]
        user_node = user_node * branches + user_codes[:, depth]
        g = draws.standard_normal((nodes, RANK))
        g *= np.sqrt(share) / np.sqrt((g * g).sum(axis=1, keepdims=True))
        item_parts.append(g[item_node])
        user_parts.append(draws.standard_normal((nodes, RANK))[user_node])
    h = np.concatenate(user_parts, axis=1)
    h -= (user_weight[:, None] * h).sum(axis=0)
    # einsum, not a matrix product: its sums do not depend on the number of threads
    covariance = np.einsum("u,ui,uj->ij", user_weight, h, h)
    values, vectors = np.linalg.eigh(covariance)
    whitening = np.einsum("ik,k,jk->ij", vectors, values**-0.5, vectors)
    return Tastes(
        item_codes=item_codes,
        user_codes=user_codes,
        item_directions=np.concatenate(item_parts, axis=1),
        user_directions=np.einsum("ui,ij->uj", h, whitening),
    )


def item_vectors(
    draws: np.random.Generator, tastes: Tastes, quality: Floats, *, width: int, noise: float
) -> NDArray[np.float32]:
    """What can be seen of the items: taste and quality, turned and blurred.

    Args:
        draws: Source of chance.
        tastes: Where the items sit.
        quality: Quality of each item, shape ``[V]``.
        width: Width of the vectors, ``D``.
        noise: Length of the noise, a taste's being 1.

    Returns:
        The vectors, shape ``[V, D]``.
    """
    truth = np.column_stack([tastes.item_directions, _QUALITY_SCALE * quality])
    turned, _ = np.linalg.qr(draws.standard_normal((width, truth.shape[1])))
    blur = draws.standard_normal((len(quality), width)) * (noise / np.sqrt(width))
    return (np.einsum("vk,dk->vd", truth, turned) + blur).astype(np.float32)
