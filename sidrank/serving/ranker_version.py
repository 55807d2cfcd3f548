"""One version of a ranker that is served: nothing writes to it, and the next one is made beside it.

A version owns its weights: it is made as a copy of the model that was handed in, and grows from
another version as a copy of the modules around the tensors that did not change. Those are shared,
which is safe because nobody writes to them. Large tables that changed in some rows share the
memory pages without such a row (:class:`~sidrank.serving.row_pages.RowPages`).

A version has a hash. The first one's is of its content; that of a version which grew by a delta
is the delta's, which covers the hash of the version before. So two processes that began with
the same weights and took the same deltas know that they hold the same version.

What belongs to a version: parameters, persistent buffers and the items of ``SIDLookup``. Buffers
that no checkpoint holds are constants or counters: those of 1 MiB and more are taken for
constants and shared, smaller ones are copied.

Source: ours [derived].

Shapes: ``N`` candidates, ``M`` tasks, ``V`` rows.
"""

import copy
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from sidrank.embeddings import RankingRequests
from sidrank.semantic_ids import SIDLookup
from sidrank.serving._sid_growth import SIDPart
from sidrank.serving.candidate_scorer import Ranks
from sidrank.serving.row_pages import LEAST_BYTES, RowPages, RowView

__all__ = ["RankerVersion", "content_of", "forked", "is_large", "sid_parts", "states_of"]


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class RankerVersion:
    """A ranker as it was at one moment of its training.

    Made by :meth:`first`, by :func:`~sidrank.serving.apply_delta` or by :meth:`fixed`.

    Attributes:
        model: The ranker, in evaluation mode where it has modes. Nothing may write to it.
        number: Counts the versions, from 1.
        hash: Tells this version from any other.
        parent: Hash of the version that it grew from; None for one that grew from none.
        views: Its tables that share memory with other versions, by name.

    Example:
        >>> class Shift(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.by = nn.Parameter(torch.ones(1))
        ...     def rank(self, requests):
        ...         return (requests.candidates["item"].values() + self.by).unsqueeze(1)
        >>> trained = Shift()
        >>> version = RankerVersion.first(trained)
        >>> with torch.no_grad():
        ...     _ = trained.by.fill_(9.0)
        >>> version.number, version.model.by.item()
        (1, 1.0)
    """

    model: Ranks
    number: int
    hash: str
    parent: str | None
    views: Mapping[str, RowView] = field(repr=False)

    @classmethod
    def first(cls, model: nn.Module) -> "RankerVersion":
        """Make a version of a model that goes on being trained, or came from a checkpoint.

        Args:
            model: The ranker, with a method ``rank``. All of it is copied.

        Returns:
            Version 1.

        Raises:
            TypeError: If the model cannot rank, or a part of it is sharded.
        """
        if not isinstance(model, _Ranker):
            raise TypeError(f"model must have a method rank, got {type(model).__name__}")
        content = content_of(model)
        views: dict[str, RowView] = {}
        replaced: dict[str, Tensor] = {}
        for name, tensor in content.items():
            if is_large(tensor):
                views[name] = RowPages.first(tensor)
                replaced[name] = views[name].rows
            else:
                replaced[name] = tensor.detach().clone()
        made = forked(model, replaced, None)
        return cls(cast(Ranks, made), 1, _digest(model, content), None, views)

    @classmethod
    def fixed(cls, ranker: Ranks, *, number: int, hash: str) -> "RankerVersion":
        """Make a version of a ranker that is swapped as a whole, such as an exported one.

        Args:
            ranker: Anything that ranks and that nobody writes to. It is not copied.
            number: Number of the version.
            hash: What tells it from any other, such as the hash of its manifest.

        Returns:
            A version that takes no delta.
        """
        return cls(ranker, number, hash, None, {})

    @property
    def module(self) -> nn.Module:
        """The ranker as a module, which a delta needs.

        Raises:
            TypeError: If it is none.
        """
        if not isinstance(self.model, nn.Module):
            raise TypeError(
                f"version must be of a module to take a delta, got {type(self.model).__name__}"
            )
        return self.model

    def rank(self, requests: RankingRequests) -> Tensor:
        """Score the candidates of each request.

        Args:
            requests: The requests.

        Returns:
            Logits, shape ``[N, M]``.
        """
        return self.model.rank(requests)


@runtime_checkable
class _Ranker(Protocol):
    def rank(self, requests: RankingRequests) -> Tensor: ...


def is_large(tensor: Tensor) -> bool:
    """Whether versions of a tensor share its pages.

    Args:
        tensor: A parameter or a buffer.

    Returns:
        True for rows on the CPU that are worth it.
    """
    return tensor.device.type == "cpu" and tensor.dim() > 0 and tensor.nbytes >= LEAST_BYTES


def content_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, by name.

    Args:
        model: The ranker.

    Returns:
        The tensors themselves.

    Raises:
        TypeError: If one is sharded, of a kind of its own or without content.
    """
    found: dict[str, Tensor] = {}
    for path, part in model.named_modules(remove_duplicate=False):
        for name, tensor in _own_tensors(part):
            found[f"{path}.{name}" if path else name] = tensor
    for name, tensor in found.items():
        if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_meta:
            kind = "a meta tensor" if tensor.is_meta else type(tensor).__name__
            raise TypeError(
                f"model must hold plain tensors, got {kind} in {name}: load the shards of a"
                " checkpoint into an unsharded model first"
            )
    return found


def sid_parts(model: nn.Module) -> dict[str, SIDPart]:
    """Every part of a model that belongs to a SID table, once, by path.

    Args:
        model: The ranker.

    Returns:
        Lookups, and sources whose codes come with the requests.
    """
    return {path: part for path, part in model.named_modules() if isinstance(part, SIDPart)}


def states_of(model: nn.Module) -> dict[str, Any]:
    """What modules remember in a checkpoint beside tensors and SID tables.

    Args:
        model: The ranker.

    Returns:
        Extra states by path.
    """
    return {
        path: part.get_extra_state()
        for path, part in model.named_modules()
        if not isinstance(part, SIDPart)
        and type(part).get_extra_state is not nn.Module.get_extra_state
    }


def forked(
    model: nn.Module, replaced: Mapping[str, Tensor], sids: Mapping[str, SIDPart] | None
) -> nn.Module:
    """Copy the modules of a model around given tensors.

    Args:
        model: The ranker.
        replaced: Tensors that take the place of those of that name; the others are shared.
        sids: Parts that take the place of those at that path; other lookups and large constants
            are shared. None: all are copied.

    Returns:
        A model in evaluation mode.
    """
    memo: dict[int, Any] = {}
    if sids is not None:
        for path, part in sid_parts(model).items():
            if path in sids or isinstance(part, SIDLookup):
                memo[id(part)] = sids.get(path, part)
        memo |= {id(each): each for each in model.buffers() if each.nbytes >= LEAST_BYTES}
    content = content_of(model)
    for name, tensor in content.items():
        given = replaced.get(name, tensor)
        if name in replaced and isinstance(tensor, nn.Parameter):
            given = nn.Parameter(given, requires_grad=False)
        memo[id(tensor)] = given
    made = copy.deepcopy(model, memo).eval()
    for name, tensor in replaced.items():
        if tensor.shape != content[name].shape:
            _tell_rows(made, name, len(tensor))
    return made


def _own_tensors(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from part.named_parameters(recurse=False, remove_duplicate=False)
    passing = part._non_persistent_buffers_set  # pyright: ignore[reportPrivateUsage]
    for name, buffer in part.named_buffers(recurse=False, remove_duplicate=False):
        if name not in passing:
            yield name, buffer


def _tell_rows(model: nn.Module, name: str, rows: int) -> None:
    """A table has grown: so must what the modules around it say of its size."""
    path, _, _ = name.rpartition(".")
    owner: Any = model.get_submodule(path)
    if hasattr(owner, "num_embeddings"):
        owner.num_embeddings = rows
    for above, part in model.named_modules():
        for method in ("embedding_bag_configs", "embedding_configs"):
            if path.startswith(f"{above}." if above else "") and hasattr(part, method):
                for config in getattr(part, method)():
                    if config.name == path.rpartition(".")[2]:
                        config.num_embeddings = rows


def _digest(model: nn.Module, content: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for path, part in sorted(sid_parts(model).items()):
        digest.update(f"{path}:{part.content_hash}\n".encode())
    for path, state in sorted(states_of(model).items()):
        digest.update(f"{path}:{state}\n".encode())
    for name, tensor in sorted(content.items()):
        digest.update(f"{name}:{tensor.dtype}:{list(tensor.shape)}\n".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().data)
    return digest.hexdigest()
