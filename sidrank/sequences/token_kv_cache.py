r"""Compressed histories by user, kept from one request to the next.

A job off the request path computes keys and values of the learned tokens of each user
(:meth:`~sidrank.sequences.CompressionTokens.compress`); a request reads its
users' rows. What is read was never computed from behaviours later than the request, never by
another model, and a user who is not there is read as one without a past.

Source: PerSRec, arXiv 2601.03479, the cached keys and values of its learned tokens. Differs from
the source: several snapshots a user, of which the newest that is not too new is read, so that
training rows and requests read the same way [derived]; the model's version is checked [derived].

Shapes: ``R`` snapshots, ``B`` rows, ``M`` learned tokens, ``N`` layers, ``H`` heads, ``d`` width
of a head.
"""

import hashlib
import os
import secrets
from pathlib import Path
from typing import NamedTuple, Self

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

__all__ = ["TokenKVCache", "TokenStates", "model_tag"]

_FORMAT = "sidrank-token-cache-1"
_LOWEST = torch.iinfo(torch.int64).min


class TokenStates(NamedTuple):
    """What is left of old behaviours: the learned tokens as each layer reads them."""

    keys: Tensor
    """Shape ``[N, B, H, M, d]``."""
    values: Tensor
    """Shape ``[N, B, H, M, d]``."""
    mask: Tensor
    """Which tokens are there, shape ``[B, M]``, bool."""
    length: Tensor
    """How many behaviours and learned tokens came before, int64 ``[B]``: the position of what
    comes next.
    """


class TokenKVCache:
    """Snapshots of users' compressed histories, read as of a time.

    Args:
        users: User of each snapshot, int64 ``[R]``.
        until: Its cut-off: all behaviours before this time are inside and no other, int64
            ``[R]``, in the unit of the requests' times.
        states: The snapshots, rows in that order.
        model: Which model made them, for instance :func:`model_tag` of it.

    Raises:
        ValueError: If shapes or dtypes do not fit, or a user has two snapshots of one time.

    Example:
        >>> states = TokenStates(torch.ones(1, 1, 1, 2, 4), torch.ones(1, 1, 1, 2, 4),
        ...                      torch.ones(1, 2).bool(), torch.tensor([7]))
        >>> cache = TokenKVCache(users=torch.tensor([42]), until=torch.tensor([100]),
        ...                      states=states, model="v1")
        >>> found, until = cache.read(torch.tensor([42, 5]), torch.tensor([100, 100]), model="v1")
        >>> found.length.tolist(), found.mask.any(dim=1).tolist()
        ([7, 0], [True, False])
    """

    def __init__(self, *, users: Tensor, until: Tensor, states: TokenStates, model: str) -> None:
        users, until = _column(users, "users"), _column(until, "until", len(users))
        _fits(states, len(users))
        order = torch.argsort(until, stable=True)
        order = order[torch.argsort(users[order], stable=True)]
        self.users = users[order]
        self.until = until[order]
        self.states = _rows(states, order)
        self.model = model
        same = (self.users[1:] == self.users[:-1]) & (self.until[1:] == self.until[:-1])
        if bool(same.any()):
            at = int(same.nonzero()[0])
            raise ValueError(
                "until must differ between snapshots of a user, "
                f"got {int(self.until[at])} twice for user {int(self.users[at])}"
            )
        # one sorted key a snapshot: user first, then time, each by its rank
        self._names = torch.unique(self.users)
        self._times = torch.unique(self.until)
        self._keys = self._key(self.users, self.until)

    def __len__(self) -> int:
        return len(self.users)

    def read(self, users: Tensor, now: Tensor, *, model: str) -> tuple[TokenStates, Tensor]:
        """Read what was known of users at the times of their requests.

        Behaviours at or after the returned cut-off are the recent ones, to be given to
        :meth:`~sidrank.sequences.CompressionTokens.recent`; earlier ones are
        inside.

        Args:
            users: Shape ``[B]``, int64.
            now: Times of the requests, shape ``[B]``, int64.
            model: Which model reads.

        Returns:
            The newest snapshots whose cut-off is not after the request, and their cut-offs,
            shape ``[B]``. A user unknown to the cache has no token, length 0 and the lowest
            int64 as cut-off.

        Raises:
            ValueError: If shapes or dtypes do not fit, another model made the snapshots, or all
                snapshots of a user are later than the request.
        """
        self._same_model(model)
        users, now = _column(users, "users"), _column(now, "now", len(users))
        if not len(self):
            return _absent(self.states, len(users)), torch.full_like(now, _LOWEST)
        place = torch.searchsorted(self._keys, self._key(users, now), right=True) - 1
        found = place.clamp(min=0)
        mine = (place >= 0) & (self.users[found] == users)
        if bool((~mine & torch.isin(users, self._names)).any()):
            row = int((~mine & torch.isin(users, self._names)).nonzero()[0])
            first = int(self.until[torch.searchsorted(self.users, users[row])])
            raise ValueError(
                f"now must be {first} or later for user {int(users[row])}, whose cached history "
                f"has what happened until then, got {int(now[row])}"
            )
        states = _rows(self.states, found)
        there = mine.to(states.mask.device)
        states = states._replace(
            mask=states.mask & there.unsqueeze(1), length=states.length * there
        )
        return states, torch.where(mine, self.until[found], _LOWEST)

    def joined(self, newer: Self) -> Self:
        """Both caches in one.

        Args:
            newer: Snapshots of the same model.

        Returns:
            A new cache.

        Raises:
            ValueError: If they are of another model or shape, or have snapshots in common.
        """
        self._same_model(newer.model)
        wanted, got = (
            [*states.keys.shape[:1], *states.keys.shape[2:]]
            for states in (self.states, newer.states)
        )
        if wanted != got:
            raise ValueError(f"newer must have layers, heads, tokens, width {wanted}, got {got}")
        mine, theirs = self.states, newer.states
        states = TokenStates(
            torch.cat([mine.keys, theirs.keys], dim=1),
            torch.cat([mine.values, theirs.values], dim=1),
            torch.cat([mine.mask, theirs.mask]),
            torch.cat([mine.length, theirs.length]),
        )
        users, until = (torch.cat([self.users, newer.users]), torch.cat([self.until, newer.until]))
        return type(self)(users=users, until=until, states=states, model=self.model)

    def without(self, users: Tensor) -> Self:
        """The cache with no trace of some users.

        Args:
            users: Shape ``[*]``, int64; unknown ones are allowed.

        Returns:
            A new cache.

        Raises:
            ValueError: If the shape or dtype does not fit.
        """
        rows = (~torch.isin(self.users, _column(users, "users"))).nonzero().flatten()
        return type(self)(
            users=self.users[rows],
            until=self.until[rows],
            states=_rows(self.states, rows),
            model=self.model,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, whole or not at all; one that is there is replaced.

        Args:
            path: The file.
        """
        tensors = {"users": self.users, "until": self.until, **self.states._asdict()}
        data = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        target = Path(path)
        scratch = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
        try:
            about = {"format": _FORMAT, "model": self.model}
            safetensors.torch.save_file(data, scratch, metadata=about)
            scratch.replace(target)
        finally:
            scratch.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, model: str) -> Self:
        """Read what :meth:`save` wrote.

        Args:
            path: The file.
            model: Which model will read it.

        Returns:
            The cache.

        Raises:
            ValueError: If the file is damaged or of another format, or another model made it.
        """
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about.get("format") != _FORMAT:
                raise ValueError(f"its format is {about.get('format')}, not {_FORMAT}")
            states = TokenStates(*(found[name] for name in TokenStates._fields))
            cache = cls(
                users=found["users"], until=found["until"], states=states, model=about["model"]
            )
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise ValueError(f"{path} must be an intact token cache, got: {error}") from error
        cache._same_model(model)
        return cache

    def _same_model(self, model: str) -> None:
        if model != self.model:
            raise ValueError(f"model must be {self.model}, which made the cache, got {model}")

    def _key(self, users: Tensor, times: Tensor) -> Tensor:
        # a time between two cut-offs has the rank of the earlier one, one before all has rank 0
        rank = torch.searchsorted(self._times, times, right=True)
        return torch.searchsorted(self._names, users) * (len(self._times) + 1) + rank


def model_tag(module: nn.Module) -> str:
    """A name that changes whenever a weight does: SHA-256 of the checkpoint's names and values.

    Args:
        module: Everything that cached states depend on: the embeddings of behaviours too.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> model_tag(nn.Identity())[:8]
        'e3b0c442'
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {list(values.shape)}\n".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _rows(states: TokenStates, rows: Tensor) -> TokenStates:
    rows = rows.to(states.keys.device)
    return TokenStates(
        states.keys.index_select(1, rows),
        states.values.index_select(1, rows),
        states.mask.index_select(0, rows),
        states.length.index_select(0, rows),
    )


def _absent(states: TokenStates, rows: int) -> TokenStates:
    layers, _, heads, tokens, width = states.keys.shape
    return TokenStates(
        states.keys.new_zeros(layers, rows, heads, tokens, width),
        states.values.new_zeros(layers, rows, heads, tokens, width),
        states.mask.new_zeros(rows, tokens),
        states.length.new_zeros(rows),
    )


def _fits(states: TokenStates, rows: int) -> None:
    shape = list(states.keys.shape)
    if len(shape) != 5 or shape[1] != rows:
        raise ValueError(f"states.keys must have shape [*, {rows}, *, *, *], got {shape}")
    wanted = {"values": shape, "mask": [rows, shape[3]], "length": [rows]}
    for name, dims in wanted.items():
        got = list(getattr(states, name).shape)
        if got != dims:
            raise ValueError(f"states.{name} must have shape {dims}, got {got}")
    if states.mask.dtype != torch.bool:
        raise ValueError(f"states.mask must be bool, got {states.mask.dtype}")
    if states.length.dtype != torch.int64:
        raise ValueError(f"states.length must be int64, got {states.length.dtype}")


def _column(values: Tensor, name: str, rows: int | None = None) -> Tensor:
    if values.dtype != torch.int64:
        raise ValueError(f"{name} must be int64, got {values.dtype}")
    if values.dim() != 1 or (rows is not None and len(values) != rows):
        wanted = "*" if rows is None else rows
        raise ValueError(f"{name} must have shape [{wanted}], got {list(values.shape)}")
    return values.detach().cpu()
