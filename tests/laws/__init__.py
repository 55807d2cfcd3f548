"""Modules that must obey the laws of tests/test_module_laws.py: a new one joins with one entry.

``inputs(rows)`` makes keyword arguments for that many rows, of which one has an empty history; an
argument that is a list has entries named ``x.0``, ``x.1``. ``state`` are the names in the
checkpoint: they are public. ``masks`` says which arguments a mask covers, ``candidates`` which have
candidates on axis 1. Constants are made once, so that building on the meta device finds real ones.
"""

from tests.laws import encoders, layers, losses, semantic_ids, sequences, situations, towers

ROOMS = [layers, semantic_ids, losses, sequences, encoders, towers, situations]
CASES = [case for room in ROOMS for case in room.CASES]
