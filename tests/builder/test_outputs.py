"""Outputs that are written and read by batches are those of the whole, in a file that numpy reads."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from enginewright.errors import DataError, StoreError
from enginewright.outputs import OutputsReader, OutputsWriter
from enginewright_runtime.npz import write_npz

OUTPUTS: dict[str, Any] = {
    "scores": np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32),
    "mask/0:1": np.random.default_rng(1).integers(0, 9, (20, 4, 5)),
    "flag": np.arange(20) % 2 == 0,
}


def write(path: Path, sizes: list[int], outputs: Any = OUTPUTS) -> Path:
    done = 0
    with OutputsWriter(path) as writer:
        for size in sizes:
            writer.append({name: values[done : done + size] for name, values in outputs.items()}, size)
            done += size
    return path


@pytest.mark.parametrize("sizes", [[20], [7, 7, 6], [1] * 20])
def test_the_bytes_are_those_of_the_whole_outputs_whatever_the_batches(sizes: list[int], tmp_path: Path) -> None:
    assert write(tmp_path / "outputs", sizes).read_bytes() == write_npz(OUTPUTS)
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


@pytest.mark.parametrize("sizes", [[20], [3, 10, 7]])
def test_batches_of_any_size_are_read_back_in_order(sizes: list[int], tmp_path: Path) -> None:
    path = write(tmp_path / "outputs", [8, 8, 4])
    with OutputsReader(path) as reader:
        assert reader.samples == 20
        parts = [reader.read(size) for size in sizes]
    for name, values in OUTPUTS.items():
        joined = np.concatenate([part[name] for part in parts])
        assert joined.dtype == values.dtype
        np.testing.assert_array_equal(joined, values)


def test_more_samples_than_there_are_are_refused(tmp_path: Path) -> None:
    with OutputsReader(write(tmp_path / "outputs", [20])) as reader:
        reader.read(15)
        with pytest.raises(StoreError, match="20 samples"):
            reader.read(6)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (np.zeros((4, 3), np.float32), r"'scores' has the shape \[4, 3\] for 2 samples"),
        (np.float32(1), r"'scores' has the shape \[\] for 2 samples"),
        (
            np.zeros((2, 4), np.float32),
            r"float32 of the shape \[4\] on the samples from 2 on, and was float32 of \[3\]",
        ),
        (np.zeros((2, 3)), "is float64 .* and was float32"),
    ],
)
def test_outputs_that_are_not_one_row_a_sample_are_refused_and_nothing_is_written(
    second: Any, message: str, tmp_path: Path
) -> None:
    def both() -> None:
        with OutputsWriter(tmp_path / "outputs") as writer:
            writer.append({"scores": np.zeros((2, 3), np.float32)}, 2)
            writer.append({"scores": np.asarray(second)}, 2)

    with pytest.raises(DataError, match=message) as caught:
        both()
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_memory_is_that_of_a_batch_and_not_of_the_split(tmp_path: Path) -> None:
    batch = {"scores": np.ones((64, 1024), np.float32)}  # 256 KiB; 64 of them are 16 MiB
    tracemalloc.start()
    with OutputsWriter(tmp_path / "outputs") as writer:
        for _ in range(64):
            writer.append(batch, 64)
    with OutputsReader(tmp_path / "outputs") as reader:
        for _ in range(64):
            reader.read(64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
