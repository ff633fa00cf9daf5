"""TensorRT's calibration cache, from our scales and back."""

from __future__ import annotations

import pytest

from enginewright.errors import DataError
from enginewright.graph.calibration_cache import calibration_cache, read_calibration_cache
from enginewright.graph.ranges import Range, Scales

SCALES = Scales("entropy", 64, {"image": Range(-1.0, 1.0), "block::0/relu: out": Range(0.0, 6.35)})


def test_the_text_is_tensorrts_own() -> None:
    lines = calibration_cache(SCALES, tensorrt="10.3.0").splitlines()
    assert lines[0] == "TRT-100300-EntropyCalibration2"
    assert lines[1] == "image: 3c010204"  # 1 / 127
    assert lines[2] == "block::0/relu: out: 3d4ccccd"  # 0.05


def test_a_range_that_is_not_symmetric_is_widened_to_its_larger_side() -> None:
    one, other = (calibration_cache(Scales("minmax", 1, {"a": found}), tensorrt="8.6.1") for found in
                  (Range(-3.0, 1.0), Range(-1.0, 3.0)))  # fmt: skip
    assert one == other


def test_it_is_read_back_with_names_that_hold_colons() -> None:
    read = read_calibration_cache(calibration_cache(SCALES, tensorrt="10.7"))
    assert read == {"image": pytest.approx(1 / 127), "block::0/relu: out": pytest.approx(0.05)}


@pytest.mark.parametrize(
    "text", ["", "TRT-100300-MinMaxCalibration\n", "TRT-1-EntropyCalibration2\nimage 3c010204\n",
             "TRT-1-EntropyCalibration2\nimage: 3c0102\n"]
)  # fmt: skip
def test_what_is_no_cache_is_refused(text: str) -> None:
    with pytest.raises(DataError):
        read_calibration_cache(text)


def test_a_name_with_a_line_break_is_refused() -> None:
    with pytest.raises(DataError, match="line break"):
        calibration_cache(Scales("minmax", 1, {"a\nb": Range(0.0, 1.0)}), tensorrt="10.3.0")
