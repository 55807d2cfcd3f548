"""The main job on real data: a DLRM that already runs gains semantic IDs."""

from sidrank.demo.run import run

__all__ = ["run"]
