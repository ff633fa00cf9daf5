"""Arrays as bytes, whatever their names, and no bytes that do harm."""

from __future__ import annotations

import io

import numpy as np
import pytest

from enginewright_runtime import npz
from enginewright_runtime.backends import Array
from enginewright_runtime.npz import read_npz, write_npz


def test_arrays_of_any_name_shape_and_dtype_read_back_equal() -> None:
    arrays: dict[str, Array] = {
        "file": np.arange(6, dtype=np.uint8).reshape(2, 3),
        "allow_pickle": np.array(1.5, np.float16),
        "model/layer.1:0": np.zeros((0, 4), np.int64),
        "\u00e4.npy": np.array([True, False]),
        "strided": np.arange(16, dtype=np.float32)[::2],
    }
    found = read_npz(write_npz(arrays))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def test_the_same_arrays_make_the_same_bytes_and_numpy_reads_them() -> None:
    arrays = {"x": np.arange(3.0)}
    data = write_npz(arrays)
    assert data == write_npz(arrays)
    with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["x"], arrays["x"])


def test_objects_are_neither_written_nor_read() -> None:
    with pytest.raises(ValueError, match="allow_pickle=False"):
        write_npz({"x": np.array([{}])})
    stream = io.BytesIO()
    np.savez(stream, x=np.array([{}]))
    with pytest.raises(ValueError, match="allow_pickle=False"):
        read_npz(stream.getvalue())


def test_every_truncation_is_refused() -> None:
    data = write_npz({"x": np.arange(3.0)})
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"."):
            read_npz(data[:length])


def test_a_header_that_promises_more_than_there_is_is_refused() -> None:
    data = write_npz({"x": np.zeros(3, np.uint8)})
    with pytest.raises(ValueError, match=r"."):
        read_npz(data.replace(b"(3,)", b"(9,)"))


def test_more_than_the_limit_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "LARGEST_BYTES", 1 << 20)
    stream = io.BytesIO()
    np.savez_compressed(stream, x=np.zeros(1 << 20, np.float32))
    with pytest.raises(ValueError, match="its arrays take 4194432 bytes, and 1048576 is the most that is read"):
        read_npz(stream.getvalue())
