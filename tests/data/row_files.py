"""The same rows as parquet, CSV and NPZ."""

import csv

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

FORMATS = ("parquet", "csv", "npz")


def write_rows(path, columns, *, row_group_size=None):
    """Write a dictionary of lists or arrays in the format that the file's name says."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path, row_group_size=row_group_size)
    elif path.suffix == ".npz":
        np.savez(path, **columns)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(zip(*(_values(column) for column in columns.values()), strict=True))
    return path


def _values(column):
    return column.tolist() if isinstance(column, np.ndarray) else column
