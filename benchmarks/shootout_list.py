"""The arms of the shoot-out by name; ``shootout_arms`` builds them.

Left out: instruction-guided search and Q2I (the log has no queries), semantic hard search (its
attention is that of the ESU arms), token merging and the content summary (no content but the
vector). Every arm trains from scratch; the alignment stage is tried in ``shootout_alignment``.
"""

from dataclasses import dataclass
from functools import partial

__all__ = ["ARMS", "Arm"]


@dataclass(frozen=True)
class Arm:
    """How an arm is made; the fields are options of ``make_arm``.

    Attributes:
        says: One line for the page.
        fields: SID features as fields of their own: a mode of the expander, or "".
        hash_id: Whether item and history are read by hash ID.
        past: "history" or "long" (10 or 50 newest likes) if their SIDs are fields too.
        gate: "", "convex" or "residual": SIDs mixed into the item's hash ID.
        mode: Resolutions behind the gate.
        statistics: Whether the gate reads "true", "shuffled" or no counts.
        alignment: Whether target and history are compared.
        codes: "learned", "shuffled", "random" or "true".
        extra: A further field: "scalars", "vector", "random_hash", "esu_ids", "esu_sids",
            "long_mean" or "glass".
        memory: Whether TRM's branches and its auxiliary loss are added.
        matched: Arm whose number of parameters the host is widened to.
    """

    says: str
    fields: str = ""
    hash_id: bool = True
    past: str = ""
    gate: str = ""
    mode: str = "multires"
    statistics: str = "true"
    alignment: bool = False
    codes: str = "learned"
    extra: tuple[str, ...] = ()
    memory: bool = False
    matched: str = ""


COORD = partial(Arm, gate="convex", alignment=True)
ARMS = {
    "hid": Arm("host: hash IDs only"),
    "sid_only": Arm(
        "SIDs in place of all item hash IDs", fields="multires", hash_id=False, past="history"
    ),
    "level": Arm("+ one field a level", fields="level"),
    "prefix": Arm("+ one field a prefix", fields="prefix"),
    "multires": Arm("+ levels and adjacent pairs as fields", fields="multires"),
    "bpe": Arm("+ byte-pair units as a field", fields="bpe"),
    "multires_shuffled": Arm(
        "control: the same, codes shuffled", fields="multires", codes="shuffled"
    ),
    "random_hash": Arm("control: + random codes as fields", fields="multires", codes="random"),
    "hybrid": Arm("+ SIDs behind the hash ID, residual gate: the upgrade", gate="residual"),
    "sid_coord": COORD("SID-Coord: multires, attention, convex gate, alignment"),
    "coord_shuffled": COORD("control: SID-Coord, codes shuffled", codes="shuffled"),
    "coord_level": COORD("SID-Coord − multires (levels only)", mode="level"),
    "coord_no_gate": COORD("SID-Coord − gate (one learned weight)", statistics=""),
    "coord_no_alignment": COORD("SID-Coord − alignment", alignment=False),
    "coord_noise_gate": COORD("control: SID-Coord, gate reads another row", statistics="shuffled"),
    "two_scalars": Arm("control: + like-rate forecast, log count", extra=("scalars",)),
    "vector": Arm("control: + the raw item vector", extra=("vector",)),
    "wide": Arm("control: host as large as SID-Coord", matched="sid_coord"),
    "history": Arm("multires + the SIDs of 10 likes", fields="multires", past="history"),
    "trm": Arm(
        "TRM: byte-pair units, levels, memory, NTP; no item hash IDs",
        fields="bpe",
        hash_id=False,
        past="history",
        memory=True,
    ),
    "esu_ids": Arm("multires + ESU over ids", fields="multires", extra=("esu_ids",)),
    "esu_sids": Arm("multires + ESU over ids and SIDs", fields="multires", extra=("esu_sids",)),
    "long_mean": Arm("multires + mean of 50 likes", fields="multires", extra=("long_mean",)),
    "glass": Arm("multires + SID-Tier token of 50 likes", fields="multires", extra=("glass",)),
    "true_codes": Arm("oracle: multires of the true codes", fields="multires", codes="true"),
}
