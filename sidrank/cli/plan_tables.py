"""The tables of a model as `sidrank plan` reads them: a JSON list, checked entry by entry.

Shapes: none.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from sidrank.cache.miss_ratio_curve import MissRatioCurve
from sidrank.sharding.table_specs import POOLINGS, TableSpec

__all__ = ["curves_by_table", "read_tables"]

_KEYS = ("name", "rows", "dim", "features", "pooling", "pooling_factors", "dtype", "optimizer")
_SAME = {  # other words for the same, all letters small and without underscores
    "float32": "fp32",
    "float": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "bfloat16": "bf16",
    "rowwiseadagrad": "rowwise_adagrad",
    "partialrowwiseadam": "partial_rowwise_adam",
}


def read_tables(path: Path) -> list[TableSpec]:
    """Read the list.

    Each entry is ``{name, rows, dim, features, pooling, dtype, optimizer}``; the first three must
    be there. ``pooling`` is how values are pooled (``sum``, ``mean``, ``none``), or how many there
    are of a sample: one number, or one for each feature; ``pooling_factors`` says the latter where
    both are wanted.

    Args:
        path: The file.

    Returns:
        The tables, in the order of the file.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is not as it must be, naming the file and the table.
    """
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must hold JSON, got {error}") from None
    if not isinstance(found, list) or not found:
        raise ValueError(f"{path} must hold a list of tables, got {str(found)[:60]}")
    specs: list[TableSpec] = []
    for place, entry in enumerate(cast(list[Any], found)):
        try:
            spec = _spec(entry)
        except ValueError as error:
            raise ValueError(f"{path}: table {place}: {error}") from None
        if spec.name in {other.name for other in specs}:
            raise ValueError(f"{path}: table {place}: name must be its own, got {spec.name} again")
        specs.append(spec)
    return specs


def curves_by_table(
    specs: Sequence[TableSpec], curves: Mapping[str, MissRatioCurve]
) -> dict[str, MissRatioCurve]:
    """Curves by name of the table, also of a trace that knows columns only.

    Args:
        specs: The tables.
        curves: Curves by name of the table; or by feature, if every table has one of its own.

    Returns:
        Curves by name of the table.

    Raises:
        ValueError: If the trace is of other tables or features.
    """
    names = {spec.name for spec in specs}
    features = {spec.features[0]: spec.name for spec in specs if len(spec.features) == 1}
    if set(curves) == names:
        return dict(curves)
    if set(curves) == set(features) and len(features) == len(specs):
        return {name: curves[feature] for feature, name in features.items()}
    missing, extra = sorted(names - curves.keys()), sorted(curves.keys() - names)
    raise ValueError(
        f"trace must hold the tables {', '.join(sorted(names)[:8])} and no other, got"
        f" {', '.join(missing[:8]) or 'none'} missing, {', '.join(extra[:8]) or 'none'} too many;"
        " `sidrank trace --tables` names them"
    )


def _spec(entry: Any) -> TableSpec:
    if not isinstance(entry, dict):
        raise ValueError(f"must be an object, got {str(entry)[:60]}")
    table = cast(dict[str, Any], entry)
    unknown = sorted(set(table) - set(_KEYS))
    if unknown:
        raise ValueError(f"keys must be among {', '.join(_KEYS)}, got {', '.join(unknown)}")
    missing = [key for key in ("name", "rows", "dim") if key not in table]
    if missing:
        raise ValueError(f"{missing[0]} must be given, got none")
    for key in ("rows", "dim"):
        if type(table[key]) is not int:
            raise ValueError(f"{key} must be an integer, got {str(table[key])[:40]!r}")
    name, features = table["name"], table.get("features", [table["name"]])
    for key, words in (("name", [name]), ("features", features)):
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise ValueError(f"{key} must be text, got {str(table.get(key))[:60]}")
    pooling, factors = table.get("pooling", "sum"), table.get("pooling_factors")
    if not isinstance(pooling, str):
        if factors is not None:
            raise ValueError("pooling must be a word where pooling_factors are given, got numbers")
        pooling, factors = "sum", pooling
    return TableSpec(
        name=name,
        rows=table["rows"],
        dim=table["dim"],
        features=tuple(cast(list[str], features)),
        pooling=_word(pooling) if _word(pooling) in POOLINGS else pooling,
        pooling_factors=_numbers(factors, len(cast(list[str], features))),
        dtype=_word(table.get("dtype", "fp32")),
        optimizer=_word(table.get("optimizer", "rowwise_adagrad")),
    )


def _numbers(given: Any, count: int) -> tuple[float, ...]:
    if given is None:
        return ()
    numbers = cast(list[Any], given) if isinstance(given, list) else [given] * count
    if not all(type(each) in (int, float) for each in numbers):
        raise ValueError(f"pooling_factors must be numbers, got {str(given)[:60]}")
    return tuple(float(each) for each in numbers)


def _word(given: Any) -> str:
    """One spelling of a word: case, underscores and FBGEMM's prefix do not matter."""
    small = str(given).lower().removeprefix("datatype.").removeprefix("exact_")
    return _SAME.get(small.replace("_", ""), small)
