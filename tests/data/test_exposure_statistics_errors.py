import re

import numpy as np
import pytest

from sidrank.data.exposure_statistics import ExposureStatistics, refuse_future_statistics


def make(**settings):
    return ExposureStatistics(**{"statistics": ["shown"], "window": 10, **settings})


def fed(time=100, **settings):
    target = make(**settings)
    target.update([7], [time], {"shown": [1]})
    return target


class TestTheFuture:
    def test_beyond_the_watermark(self):
        assert fed().as_of([7], [100]).tolist() == [[0]]
        message = "at most 100 (watermark 100 + delay 0 + staleness 0), got 101 in row 1"
        with pytest.raises(ValueError, match=f"timestamps must be {re.escape(message)}"):
            fed().as_of([7, 7], [99, 101])

    def test_names_the_column_and_the_row(self):
        rows = {"video": np.array([7, 7]), "shown_at": np.array([100, 999])}
        with pytest.raises(ValueError, match=r"shown_at must be at most 100 .*got 999 in row 1"):
            fed().write_into(rows, items="video", timestamps="shown_at")

    def test_delay_and_staleness_reach_further(self):
        target = fed(delay=5, staleness=3)
        assert target.as_of([7], [108]).tolist() == [[1]]
        with pytest.raises(ValueError, match=r"delay 5 \+ staleness 3\), got 109"):
            target.as_of([7], [109])

    def test_advance_moves_the_watermark_forward_only(self):
        target = fed()
        target.advance(103)
        target.advance(50)
        target.update([7], [60], {"shown": [1]})
        assert target.watermark == 103
        assert target.as_of([7], [103]).tolist() == [[1]]

    def test_before_anything_is_known(self):
        with pytest.raises(
            ValueError, match="timestamps must wait for the first update or advance"
        ):
            make().as_of([1], [1])

    def test_statistics_that_came_with_the_rows(self):
        refuse_future_statistics([100, 219], [101, 220], column="clicks", delay=1)
        refuse_future_statistics([], [], column="clicks")
        message = "column 'clicks' must count events before 219 only, got until 220 in row 1"
        with pytest.raises(ValueError, match=message):
            refuse_future_statistics([100, 220], [101, 220], column="clicks", delay=1)


class TestSettings:
    def test_statistics_is_a_string(self):
        with pytest.raises(TypeError, match="statistics must be a sequence of names"):
            make(statistics="shown")

    @pytest.mark.parametrize("names", [[], ["a", "a"]])
    def test_names(self, names):
        with pytest.raises(ValueError, match="statistics must be at least one name, each once"):
            make(statistics=names)

    @pytest.mark.parametrize(
        ("name", "value", "least"),
        [("window", 0, 1), ("delay", -1, 0), ("staleness", -1, 0), ("resolution", 0, 1)],
    )
    def test_durations(self, name, value, least):
        with pytest.raises(ValueError, match=f"{name} must be at least {least} .*got {value}"):
            make(**{name: value})
        with pytest.raises(ValueError, match=f"{name} must be at least {least} and at most 2⁵⁹"):
            make(**{name: 2**60})

    def test_a_fraction(self):
        with pytest.raises(TypeError, match=r"window must be an integer, got 1\.5"):
            make(window=1.5)


class TestColumns:
    @pytest.mark.parametrize(
        ("items", "times", "shown", "message"),
        [
            ([1.5], [1], [1], "items must be integers, got float64"),
            ([[1]], [1], [1], r"items must have shape \[n\], got \[1, 1\]"),
            ([2**63], [1], [1], "items must fit into int64, got 9223372036854775808 in row 0"),
            ([1], [1.0], [1], "timestamps must be integers, got float64"),
            ([1], [1, 2], [1], "timestamps must have 1 rows, got 2"),
            ([1], [2**61 + 1], [1], "timestamps must be within ±2⁶¹, got 2305843009213693953"),
            (
                [1, 1],
                [1, 1],
                [0, -1],
                r"counts\['shown'\] must be 0 to 2147483647, got -1 in row 1",
            ),
            ([1], [1], [2**31], r"counts\['shown'\] must be 0 to 2147483647, got 2147483648"),
            ([1], [1], [0.5], r"counts\['shown'\] must be integers, got float64"),
            ([1], [1], [], r"counts\['shown'\] must have 1 rows, got 0"),
        ],
    )
    def test_are_refused_and_nothing_is_added(self, items, times, shown, message):
        target = make()
        with pytest.raises(ValueError, match=message):
            target.update(items, times, {"shown": shown})
        assert (len(target), target.watermark) == (0, None)

    @pytest.mark.parametrize("counts", [{}, {"shown": [1], "liked": [1]}, {"liked": [1]}])
    def test_other_statistics(self, counts):
        with pytest.raises(ValueError, match=r"counts must hold \['shown'\], got"):
            make().update([1], [1], counts)

    def test_booleans_are_no_items(self):
        with pytest.raises(ValueError, match="items must be integers, got bool"):
            fed().as_of([True], [1])

    def test_advance_and_forget_out_of_range(self):
        with pytest.raises(ValueError, match="timestamp must be within"):
            make().advance(2**62)
        with pytest.raises(ValueError, match="before must be within"):
            make().forget(-(2**62))
