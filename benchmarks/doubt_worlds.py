"""Worlds with a known true AUC, to count how often an interval holds it.

``RowWorld``: independent rows, binormal scores, perhaps rounded to a few values.
``FEW``: the same with so few positives that nothing holds well: the expected number of positives
times (1 - AUC) is 5 or less, elsewhere 10 or more.
``UserWorld``: a user has an effect on both its click rate and its scores, and a skill with which
its positives are scored, so that its rows are anything but independent.
"""

from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

__all__ = ["FEW", "ROWS", "USERS", "RowWorld", "UserWorld"]

NORMAL = NormalDist()
Rows = np.ndarray


@dataclass(frozen=True, kw_only=True)
class RowWorld:
    """Negatives score N(0, 1), positives N(m, 1); two models' noise correlates 0.8.

    Args:
        rows: Rows of a data set.
        rate: Chance of a positive.
        auc: AUC of the scores before they are rounded.
        step: Scores are rounded to multiples of it; None leaves them.
    """

    rows: int
    rate: float
    auc: float
    step: float | None = None

    def __str__(self) -> str:
        ties = "" if self.step is None else f", rounded to {self.step:g}"
        return f"{self.rows} rows, {self.rate:.1%} positive, AUC {self.auc}{ties}"

    @cached_property
    def truth(self) -> float:
        """AUC of the scores as they are."""
        if self.step is None:
            return self.auc
        edges = (np.arange(-60, 61) + 0.5) * self.step
        shift = shift_of(self.auc)
        negative, positive = (
            np.diff([0.0, *(NORMAL.cdf(edge - mean) for edge in edges), 1.0])
            for mean in (0.0, shift)
        )
        return float(positive @ (np.cumsum(negative) - negative / 2))

    def draw(self, generator: np.random.Generator) -> tuple[Rows, Rows]:
        """Labels and scores."""
        labels = self._labels(generator)
        return labels, self._rounded(labels, self.auc, generator.standard_normal(self.rows))

    def draw_pair(self, generator: np.random.Generator, gain: float) -> tuple[Rows, Rows, Rows]:
        """Labels, treatment and control, whose AUCs before rounding differ by ``gain``."""
        labels = self._labels(generator)
        shared, *own = generator.standard_normal((3, self.rows))
        noise = [np.sqrt(0.8) * shared + np.sqrt(0.2) * each for each in own]
        treatment = self._rounded(labels, self.auc + gain, noise[0])
        return labels, treatment, self._rounded(labels, self.auc, noise[1])

    def _labels(self, generator: np.random.Generator) -> Rows:
        while True:
            labels = generator.random(self.rows) < self.rate
            if labels.sum() >= 2:
                return labels

    def _rounded(self, labels: Rows, auc: float, noise: Rows) -> Rows:
        scores = labels * shift_of(auc) + noise
        return scores if self.step is None else np.round(scores / self.step)


@dataclass(frozen=True, kw_only=True)
class UserWorld:
    """Rows ``score = effect · u + skill · y + noise`` of users ``u ~ N(0, 1)``.

    A row is positive if ``√½ u + √½ e`` is above the quantile of ``rate``. The skill is
    N(1, 0.5²) for each user, and either model has half of its user effect for itself; the models
    are equally good.

    Args:
        users: Users of a data set.
        rows: Rows of a user in the mean; their number is geometric, at least two.
        rate: Share of positive rows.
        effect: Size of the user's effect on its scores.
    """

    users: int
    rows: int
    rate: float
    effect: float

    SKILL, SPREAD = 1.0, 0.5

    def __str__(self) -> str:
        return (
            f"{self.users} users of {self.rows} rows, {self.rate:.0%} positive, "
            f"user effect {self.effect:g}"
        )

    @property
    def grouped_truth(self) -> float:
        """GAUC: inside a user the effect is the same for every row."""
        return NORMAL.cdf(self.SKILL / np.sqrt(2 + self.SPREAD**2))

    @cached_property
    def truth(self) -> float:
        """AUC over pairs of rows of different users, by quadrature over both users' ``u``."""
        grid = np.linspace(-7, 7, 561)
        density = np.exp(-(grid**2) / 2)
        chance = np.array([NORMAL.cdf(u - np.sqrt(2) * self._threshold) for u in grid])
        positive, negative = density * chance, density * (1 - chance)
        # Own effects differ between two users by N(0, effect²), the shared ones by √½ effect Δu.
        scale = np.sqrt(2 + self.SPREAD**2 + self.effect**2)
        gap = grid[1] - grid[0]
        steps = np.arange(-len(grid) + 1, len(grid)) * gap * np.sqrt(0.5) * self.effect
        wins = np.array([NORMAL.cdf((self.SKILL + step) / scale) for step in steps])
        place = np.arange(len(grid))
        table = wins[place[:, None] - place[None, :] + len(grid) - 1]
        return float(positive @ table @ negative / (positive.sum() * negative.sum()))

    @property
    def _threshold(self) -> float:
        return NORMAL.inv_cdf(1 - self.rate)

    def draw(self, generator: np.random.Generator) -> tuple[Rows, Rows, Rows, Rows]:
        """Labels, two models' scores, users."""
        sizes = 1 + generator.geometric(1 / (self.rows - 1), self.users)
        users = np.repeat(np.arange(self.users), sizes)
        u, *own = generator.standard_normal((3, self.users))
        noise = generator.standard_normal((4, len(users)))
        labels = np.sqrt(0.5) * (u[users] + noise[0]) > self._threshold
        skill = generator.normal(self.SKILL, self.SPREAD, (2, self.users))
        scores = [
            self.effect * np.sqrt(0.5) * (u + own[model])[users]
            + skill[model][users] * labels
            + np.sqrt(0.5) * (noise[1] + noise[2 + model])
            for model in range(2)
        ]
        return labels, scores[0], scores[1], users


def shift_of(auc: float) -> float:
    """Distance of the classes' means at which binormal scores have this AUC."""
    return float(np.sqrt(2)) * NORMAL.inv_cdf(auc)


ROWS = (
    RowWorld(rows=200, rate=0.5, auc=0.75),
    RowWorld(rows=2000, rate=0.1, auc=0.75),
    RowWorld(rows=20000, rate=0.01, auc=0.75),
    RowWorld(rows=5000, rate=0.05, auc=0.6),
    RowWorld(rows=5000, rate=0.05, auc=0.9),
    RowWorld(rows=10000, rate=0.05, auc=0.98),
    RowWorld(rows=5000, rate=0.05, auc=0.75, step=0.5),
    RowWorld(rows=5000, rate=0.05, auc=0.75, step=3.0),
)
FEW = (
    RowWorld(rows=2000, rate=0.01, auc=0.75),
    RowWorld(rows=2000, rate=0.02, auc=0.98),
    RowWorld(rows=500, rate=0.01, auc=0.75),
)
USERS = (
    UserWorld(users=200, rows=10, rate=0.2, effect=1.5),
    UserWorld(users=300, rows=30, rate=0.05, effect=1.0),
)
