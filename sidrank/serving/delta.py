"""What changed between a served version of a ranker and the model that was trained on.

Of a table, the rows that differ in any bit; of anything else that differs (dense layers, small
tables of which most rows moved), all of it; of a SID lookup, the items that it gained. A delta
names the version that it belongs to by hash and is refused by any other.

``apply_delta`` makes the next version and leaves the one that serves as it is. Both sides hold
versions: the trainer its last published one, to compare with, and the server those it serves.

The comparison reads both versions of every tensor, in blocks; it asks nobody which rows were
touched, so it is right for any optimiser. Tables may grow behind their end and never shrink. A
fused or sharded trainer loads its checkpoint into an unsharded model first.

Source: ours [derived]. TorchRec's ``model_tracker`` and TorchEasyRec's ``delta_embedding_dump``
track the touched rows of sharded tables; the swap on the serving side they leave to others.

Shapes: ``V`` rows, ``n`` changed rows.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from sidrank.serving import _sid_growth
from sidrank.serving._sid_growth import Growth
from sidrank.serving.candidate_scorer import Ranks
from sidrank.serving.ranker_version import (
    RankerVersion,
    content_of,
    forked,
    is_large,
    sid_parts,
    states_of,
)
from sidrank.serving.row_pages import RowPages, RowView

__all__ = ["ChangedRows", "Delta", "apply_delta", "delta_between"]

_BLOCK_BYTES = 1 << 22
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class ChangedRows(NamedTuple):
    """Some rows of one tensor."""

    rows: Tensor
    """Which, ascending, int64 ``[n]``."""
    values: Tensor
    """What they are now, ``[n, ...]``."""
    length: int
    """Rows of the whole tensor, ``V``."""


@dataclass(frozen=True, eq=False, slots=True)
class Delta:
    """What one version has and the version before it has not.

    Attributes:
        base: Hash of the version before.
        number: Number of the new version.
        rows: Tensors of which some rows changed, by name.
        whole: Tensors that changed as a whole, by name.
        items: New items of SID tables, by the path of the lookup; none for a source whose codes
            come with the requests, of which only the hash changes.
        hash: Of all this; it becomes the hash of the new version.
    """

    base: str
    number: int
    rows: Mapping[str, ChangedRows]
    whole: Mapping[str, Tensor]
    items: Mapping[str, Growth]
    hash: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "hash", _digest(self))

    @property
    def nbytes(self) -> int:
        """Size of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def manifest(self) -> dict[str, Any]:
        """What a file says beside the tensors.

        Returns:
            Plain numbers, strings, lists and dictionaries.
        """
        return {
            "base": self.base,
            "number": self.number,
            "lengths": {name: part.length for name, part in sorted(self.rows.items())},
            "items": {
                path: {
                    "content_hash": part.content_hash,
                    "version": part.version,
                    "ancestors": part.ancestors,
                }
                for path, part in sorted(self.items.items())
            },
        }

    def tensors(self) -> dict[str, Tensor]:
        """All tensors under names of their own.

        Returns:
            ``rows/<name>`` with ``values/<name>``, ``whole/<name>``, ``items/<path>`` with
            ``codes/<path>``.
        """
        found = {f"whole/{name}": tensor for name, tensor in self.whole.items()}
        for name, part in self.rows.items():
            found |= {f"rows/{name}": part.rows, f"values/{name}": part.values}
        for path, growth in self.items.items():
            found |= {f"items/{path}": growth.items, f"codes/{path}": growth.codes}
        return dict(sorted(found.items()))


def delta_between(base: RankerVersion, model: nn.Module) -> Delta:
    """Compare a version with the model that has been trained since, between two steps of it.

    Args:
        base: The version that was published last.
        model: The model, built as that of the version.

    Returns:
        What is new in the model, on the CPU. Nothing of it is shared with the model.

    Raises:
        TypeError: If a tensor of the model is sharded.
        ValueError: If the model has other tensors, dtypes, widths or merges, or a table is shorter.
        SIDVersionError: If a SID table did not grow from that of the version.
    """
    old, new = content_of(base.module), content_of(model)
    _require_same(
        "tensors", {n: t.dtype for n, t in old.items()}, {n: t.dtype for n, t in new.items()}
    )
    _require_same("extra states", states_of(base.module), states_of(model))
    parts, others = sid_parts(base.module), sid_parts(model)
    _require_same(
        "SID tables",
        {path: type(part).__name__ for path, part in parts.items()},
        {path: type(part).__name__ for path, part in others.items()},
    )
    growths = {path: _sid_growth.growth_between(path, parts[path], others[path]) for path in parts}
    rows: dict[str, ChangedRows] = {}
    whole: dict[str, Tensor] = {}
    for name, tensor in new.items():
        _check_shape(name, old[name], tensor)
        if tensor.dim() == 0:
            if not torch.equal(_bits(old[name]), _bits(tensor)):
                whole[name] = tensor.detach().cpu().clone()
            continue
        changed = _changed(old[name].detach(), tensor.detach())
        if not len(changed):
            continue
        # a row costs its own bytes and those of its number
        if len(changed) * (tensor.nbytes // len(tensor) + 8) < tensor.nbytes:
            values = tensor.detach().index_select(0, changed.to(tensor.device)).cpu()
            rows[name] = ChangedRows(changed, values, len(tensor))
        else:
            whole[name] = tensor.detach().cpu().contiguous().clone()
    return Delta(
        base=base.hash,
        number=base.number + 1,
        rows=rows,
        whole=whole,
        items={path: growth for path, growth in growths.items() if growth is not None},
    )


def apply_delta(version: RankerVersion, delta: Delta) -> RankerVersion:
    """Make the next version; the given one stays as it is and may serve meanwhile.

    Args:
        version: The version that the delta belongs to.
        delta: What is new.

    Returns:
        The next version. What did not change is shared with the given one.

    Raises:
        ValueError: If the delta belongs to another version, or does not fit this one.
        SIDVersionError: If a SID table does not become what the delta promises.
    """
    if delta.base != version.hash:
        raise ValueError(
            f"delta must belong to version {version.number} ({version.hash}), got one to version"
            f" {delta.number} that belongs to {delta.base}"
        )
    old = content_of(version.module)
    parts = sid_parts(version.module)
    _require_known("tensors", [*delta.rows, *delta.whole], old)
    _require_known("SID tables", [*delta.items], parts)
    for name, changed in delta.rows.items():
        _check_rows(name, old[name], changed)
    for name, tensor in delta.whole.items():
        _check_shape(name, old[name], tensor)
        _require_same("tensors", {name: old[name].dtype}, {name: tensor.dtype})
    grown = {path: _sid_growth.grown(path, parts[path], part) for path, part in delta.items.items()}
    views = {name: view for name, view in version.views.items() if name not in delta.whole}
    replaced: dict[str, Tensor] = {}
    for name, tensor in delta.whole.items():
        device = old[name].device
        if device.type == "cpu" and is_large(tensor):
            views[name] = RowPages.first(tensor)
            replaced[name] = views[name].rows
        else:
            replaced[name] = tensor.to(device, copy=True)
    for name, changed in delta.rows.items():
        if name in views:
            views[name] = _forked_view(views[name], changed)
            replaced[name] = views[name].rows
        else:
            replaced[name] = _copied(old[name].detach(), changed)
    model = forked(version.module, replaced, grown)
    return RankerVersion(cast(Ranks, model), delta.number, delta.hash, version.hash, views)


def _forked_view(view: RowView, changed: ChangedRows) -> RowView:
    return view.pages.fork(view, changed.rows, changed.values, changed.length)


def _copied(old: Tensor, changed: ChangedRows) -> Tensor:
    made = old.new_empty(changed.length, *old.shape[1:])
    made[: len(old)] = old
    return made.index_copy_(0, changed.rows.to(old.device), changed.values.to(old.device))


def _bits(tensor: Tensor) -> Tensor:
    """Numbers that are equal where the bits are: NaN equals itself, 0 is not -0."""
    return tensor.detach().contiguous().view(_BITS[tensor.dtype.itemsize])


def _changed(old: Tensor, new: Tensor) -> Tensor:
    """Rows of the new tensor that the old one has not, int64 on the CPU."""
    size = max(1, _BLOCK_BYTES * len(new) // max(new.nbytes, 1))
    found = [torch.arange(len(old), len(new))]
    for start in range(0, len(old), size):
        end = min(start + size, len(old))
        ours, theirs = _bits(old[start:end]), _bits(new[start:end].to(old.device))
        if not torch.equal(ours, theirs):
            differ = (ours != theirs).reshape(end - start, -1).any(dim=1)
            found.insert(-1, differ.nonzero().flatten().cpu() + start)
    return torch.cat(found)


def _check_rows(name: str, old: Tensor, changed: ChangedRows) -> None:
    rows, values, length = changed
    behind = torch.arange(len(old), max(length, len(old)))
    good = (
        rows.dtype == torch.int64
        and rows.dim() == 1
        and old.dim() > 0
        and length >= len(old)
        and bool((rows.diff() > 0).all())
        and (not len(rows) or (int(rows[0]) >= 0 and int(rows[-1]) < length))
        and torch.equal(rows[len(rows) - len(behind) :], behind)
    )
    if not good:
        raise ValueError(
            f"rows of {name} must ascend within [0, {length}) and hold all from {len(old)} on,"
            f" got {rows.tolist()[:5]}"
        )
    if values.dtype != old.dtype or values.shape != (len(rows), *old.shape[1:]):
        raise ValueError(
            f"values of {name} must be {old.dtype} of shape {[len(rows), *old.shape[1:]]},"
            f" got {values.dtype} of {list(values.shape)}"
        )


def _check_shape(name: str, old: Tensor, new: Tensor) -> None:
    grows = old.dim() > 0 and new.dim() > 0 and len(new) >= len(old)
    if new.shape[1:] != old.shape[1:] or (new.shape != old.shape and not grows):
        wanted = ", ".join(map(str, old.shape))
        raise ValueError(f"{name} must have shape [{wanted}] or more rows, got {list(new.shape)}")


def _require_same(what: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    for name in expected.keys() | found.keys():
        if name not in found or name not in expected or expected[name] != found[name]:
            wanted, got = (
                str(each[name]) if name in each else "none" for each in (expected, found)
            )
            raise ValueError(
                f"model must have the {what} of the version, {name}: {wanted}, got {got}"
            )


def _require_known(what: str, names: list[str], known: Mapping[str, Any]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"delta must change {what} of the version, got {unknown[0]}")


def _digest(delta: Delta) -> str:
    manifest = json.dumps(delta.manifest(), sort_keys=True)
    digest = hashlib.sha256(manifest.encode())
    for name, tensor in delta.tensors().items():
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
