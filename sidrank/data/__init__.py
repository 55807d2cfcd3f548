"""Rows in: one reader of files, public data sets, and what a row may know of its past."""

from sidrank.data.as_of import AsOfLog
from sidrank.data.columns import Batch, Text, TextIndex
from sidrank.data.movielens import MovieLens, find_recbole_files, read_movielens
from sidrank.data.rows import RowFile, open_rows

__all__ = [
    "AsOfLog",
    "Batch",
    "MovieLens",
    "RowFile",
    "Text",
    "TextIndex",
    "find_recbole_files",
    "open_rows",
    "read_movielens",
]
