"""Rows in: one reader of files, public data sets, and what a row may know of its past."""

from sidrank.data.as_of import AsOfLog
from sidrank.data.columns import Batch, Text, TextIndex
from sidrank.data.exposure_statistics import ExposureStatistics, refuse_future_statistics
from sidrank.data.exposure_stream import ExposureStream
from sidrank.data.factor_vectors import factor_vectors
from sidrank.data.movielens import MovieLens, find_recbole_files, read_movielens
from sidrank.data.planted import PlantedLog, PlantedSettings, plant_log
from sidrank.data.planted_deadlines import DeadlineSettings, PlantedDeadlines, plant_deadlines
from sidrank.data.planted_sequences import (
    PlantedSequences,
    SequenceSettings,
    SequenceShares,
    plant_sequences,
)
from sidrank.data.planted_situations import PlantedSituations, SituationSettings, plant_situations
from sidrank.data.row_plan import RowPlan
from sidrank.data.row_stream import RowColumns, RowStream, TrainingRows
from sidrank.data.rows import RowFile, open_rows

__all__ = [
    "AsOfLog",
    "Batch",
    "DeadlineSettings",
    "ExposureStatistics",
    "ExposureStream",
    "MovieLens",
    "PlantedDeadlines",
    "PlantedLog",
    "PlantedSequences",
    "PlantedSettings",
    "PlantedSituations",
    "RowColumns",
    "RowFile",
    "RowPlan",
    "RowStream",
    "SequenceSettings",
    "SequenceShares",
    "SituationSettings",
    "Text",
    "TextIndex",
    "TrainingRows",
    "factor_vectors",
    "find_recbole_files",
    "open_rows",
    "plant_deadlines",
    "plant_log",
    "plant_sequences",
    "plant_situations",
    "read_movielens",
    "refuse_future_statistics",
]
