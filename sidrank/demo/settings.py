"""How each arm is built and trained: numbers chosen on validation rows, kept in a file.

The committed ``settings.json`` is the best of several searches; ``python -m benchmarks.claims
--tune`` starts from it and searches on. The host's settings are searched first and longest; every
other arm inherits them and searches only what it adds (``benchmarks/tuning.py``).

Shapes: none.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

__all__ = ["SETTINGS_FILE", "Recipe", "Settings", "VectorRecipe", "read_settings"]

SETTINGS_FILE = Path(__file__).with_name("settings.json")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one arm is built and trained.

    Attributes:
        width: Embedding width ``D`` of all tables.
        hidden: Width of the dense layers.
        init: Standard deviation of table rows at birth.
        lr: Step size of the dense layers (AdamW).
        decay: Decoupled weight decay of the dense layers.
        item_lr: Step size of the item table, which the history shares.
        table_lr: Step size of the host's other tables.
        table_decay: Decoupled weight decay of the host's tables.
        branch_lr: Step size of the SID tables.
        branch_decay: Decoupled weight decay of the SID tables.
        gate_lr: Step size of the gate.
        epochs: Passes over the training rows.
        batch: Rows of a batch.
        cold_share: Share of the training rows replaced by their cold twins.
        in_order: Whether rows come in the order of time, as a production ranker meets them, and
            not shuffled.
        buckets: Whether the statistics also come as bucketised ids.
    """

    width: int = 16
    hidden: int = 32
    init: float = 0.01
    lr: float = 2e-3
    decay: float = 0.1
    item_lr: float = 3e-4
    table_lr: float = 3e-4
    table_decay: float = 0.1
    branch_lr: float = 2e-3
    branch_decay: float = 0.1
    gate_lr: float = 2e-3
    epochs: int = 3
    batch: int = 512
    cold_share: float = 0.2
    in_order: bool = False
    buckets: bool = True


@dataclass(frozen=True, slots=True)
class VectorRecipe:
    """How item vectors are made and quantised.

    Attributes:
        weights: Root mean square of co-likes, like residual, log count, text.
        levels: Codebook sizes of the semantic IDs.
    """

    weights: tuple[float, float, float, float] = (0.7, 1.0, 0.7, 0.2)
    levels: tuple[int, ...] = (8, 8, 8)


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that was tuned.

    Attributes:
        recipes: By protocol, then by arm.
        vectors: By protocol.
        regression: Inverse penalty of the logistic regression, by protocol.
    """

    recipes: dict[str, dict[str, Recipe]]
    vectors: dict[str, VectorRecipe]
    regression: dict[str, float]

    def recipe(self, protocol: str, arm: str) -> Recipe:
        """Settings of an arm; one that was not tuned for itself has the hybrid's or the host's.

        Args:
            protocol: Name of the protocol.
            arm: Name of the arm.

        Returns:
            Its recipe.
        """
        of_protocol = self.recipes[protocol]
        family = "host" if arm.startswith("host") else "hybrid"
        return of_protocol.get(arm) or of_protocol.get(family) or of_protocol["host"]


def read_settings(path: Path = SETTINGS_FILE) -> Settings:
    """Read the committed settings.

    Args:
        path: A JSON file with ``recipes``, ``vectors`` and ``regression`` by protocol.

    Returns:
        The settings.

    Raises:
        ValueError: If the file names a setting that does not exist.
    """
    stored: dict[str, Any] = json.loads(path.read_text())
    known = {field.name for field in fields(Recipe)}
    for arms in stored["recipes"].values():
        for arm, recipe in arms.items():
            if not set(recipe) <= known:
                raise ValueError(f"{path} must only set {sorted(known)}, got {recipe} for {arm}")
    return Settings(
        recipes={
            protocol: {arm: Recipe(**recipe) for arm, recipe in arms.items()}
            for protocol, arms in stored["recipes"].items()
        },
        vectors={
            protocol: VectorRecipe(weights=tuple(v["weights"]), levels=tuple(v["levels"]))
            for protocol, v in stored["vectors"].items()
        },
        regression=stored["regression"],
    )
