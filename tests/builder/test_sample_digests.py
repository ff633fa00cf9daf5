"""Two samples have one digest when their inputs are the same, and else they have two."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest

from enginewright.errors import DataError
from enginewright.sample_digests import digests_from_json, digests_of, digests_to_json

BATCH = {"image": np.arange(24, dtype=np.float32).reshape(2, 3, 4), "speed": np.array([1.5, 2.5], np.float32)}


def test_the_digest_is_the_sha256_of_names_dtypes_shapes_and_values() -> None:
    first = BATCH["image"][0].tobytes(), BATCH["speed"][0].tobytes()
    expected = hashlib.sha256(b"image\nfloat32\n[3, 4]\n" + first[0] + b"speed\nfloat32\n[]\n" + first[1])
    assert digests_of(BATCH)[0] == expected.digest()


def test_neither_the_order_of_inputs_nor_the_batch_nor_the_order_of_bytes_counts() -> None:
    whole = digests_of(BATCH)
    turned = {"speed": BATCH["speed"], "image": np.asfortranarray(BATCH["image"])}
    assert digests_of(turned) == whole
    assert digests_of({name: values[1:] for name, values in BATCH.items()}) == whole[1:]
    assert digests_of({name: values.astype(">f4") for name, values in BATCH.items()}) == whole


@pytest.mark.parametrize(
    "other",
    [
        {"image": BATCH["image"] + np.float32(1e-3)},
        {"image": BATCH["image"].reshape(2, 4, 3)},
        {"image": BATCH["image"].view(np.int32)},
        {"speed": BATCH["speed"] * 2},
    ],
)
def test_any_other_value_shape_or_dtype_is_another_sample(other: dict[str, Any]) -> None:
    assert not set(digests_of(BATCH)) & set(digests_of({**BATCH, **other}))


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.float16, np.int64])
def test_every_dtype_has_digests(dtype: Any) -> None:
    assert len(set(digests_of({"x": np.array([[0, 1], [1, 0]], dtype)}))) == 2


def test_digests_survive_json_each_once() -> None:
    digests = digests_of(BATCH)
    written = digests_to_json([*digests, digests[0]])
    assert written["samples"] == sorted(digest.hex() for digest in digests)
    assert digests_from_json({**written, "key of a later version": 1}) == set(digests)


@pytest.mark.parametrize(
    ("json", "message"),
    [
        ([], "no digests"),
        ({"samples": []}, "no digests"),
        ({"format": 2, "samples": []}, "newer than 1"),
        ({"format": 1}, "not a list of hexadecimal"),
        ({"format": 1, "samples": ["not hexadecimal"]}, "not a list of hexadecimal"),
    ],
)
def test_broken_digests_are_refused(json: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        digests_from_json(json)
