"""Rows in: public data sets and the statistics a row may know of its past."""

from sidrank.data.as_of import AsOfLog
from sidrank.data.movielens import MovieLens, find_recbole_files, read_movielens

__all__ = ["AsOfLog", "MovieLens", "find_recbole_files", "read_movielens"]
