"""What is carried to a device for its tests, and how accuracy and times are judged there. Without a device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.gpu.accuracy import judge_accuracy
from tests.gpu.comparing import growth_over, ratio_of
from tests.gpu.effort import VARIABLE, Effort, chosen_effort
from tests.gpu.prepared import Prepared, PreparedError, Samples, as_carried, read_prepared
from tests.tiny_prepared import make_prepared

from enginewright_runtime.measurement import MeasuredEngine, Measurement, Protocol, SessionRecord
from enginewright_runtime.warm_up import WarmUpRule


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_prepared(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def prepared(folder: Path) -> Prepared:
    return read_prepared(folder, "tiny")


def test_an_image_of_eight_bits_is_carried_exactly() -> None:
    image = np.arange(2 * 256, dtype=np.uint8).reshape(2, 256).astype(np.float32) / np.float32(127.5) - 1
    carried, how = as_carried(image)
    assert how == "uint8 of a palette"
    assert np.array_equal(carried, image)


def test_other_floats_are_rounded_before_anything_is_computed_on_them() -> None:
    values = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    carried, how = as_carried(values)
    assert how == "float16"
    assert carried.dtype == np.float32
    assert np.array_equal(carried, values.astype(np.float16))
    assert np.array_equal(as_carried(carried)[0], carried)


def test_a_folder_comes_back_as_it_was_written(folder: Path, tmp_path: Path) -> None:
    again = read_prepared(folder, "tiny")
    assert again.metric == "top1"
    assert again.bundle.manifest.name == "tiny"
    assert (len(again.samples), again.samples.inputs["x"].dtype) == (64, np.float32)
    assert [len(again.samples.batch(first, 48)["x"]) for first in (0, 48)] == [48, 16]


def test_altered_samples_and_another_format_are_refused(tmp_path: Path) -> None:
    folder = make_prepared(tmp_path / "prepared")
    samples, described = folder / "tiny" / "samples.npz", folder / "tiny" / "samples.json"
    samples.write_bytes(samples.read_bytes() + b"x")
    with pytest.raises(PreparedError, match=r"samples\.npz does not match its digest"):
        read_prepared(folder, "tiny")
    described.write_text(described.read_text().replace('"format":1', '"format":2'))
    with pytest.raises(PreparedError, match="format 2, and 1 is read here"):
        read_prepared(folder, "tiny")
    with pytest.raises(PreparedError, match="No such file"):
        read_prepared(folder, "other")


def wrong_on(prepared: Prepared, count: int) -> dict[str, np.ndarray]:
    """The reference's outputs, with the first `count` samples called something else."""
    scores = prepared.samples.reference["scores"].copy()
    scores[:count] = -scores[:count]
    return {"scores": scores}


def test_a_drop_may_lie_beyond_its_budget_by_two_standard_errors_and_no_more(prepared: Prepared) -> None:
    """Of 64 samples, 5 % are 3.2; two standard errors of n changed samples are 2 sqrt(n)."""
    verdicts = {count: judge_accuracy(prepared, wrong_on(prepared, count)).within for count in range(14)}
    assert [count for count, within in verdicts.items() if not within] == [10, 11, 12, 13]


def test_balanced_accuracy_weighs_a_rare_class_more(prepared: Prepared) -> None:
    labels = np.array([0] * 60 + [1] * 4)
    scores = np.zeros((64, 2), np.float32)
    scores[np.arange(64), labels] = 1
    changed = scores.copy()
    changed[60] = changed[60][::-1]
    rare = replace(prepared, metric="balanced_accuracy", samples=Samples({}, labels, {"scores": scores}, {}))
    judged = judge_accuracy(rare, {"scores": changed})
    assert judged.drop == pytest.approx(1 / 8)
    assert judged.slack == pytest.approx(2 / 8)


def test_fidelity_needs_no_labels(prepared: Prepared) -> None:
    unlabelled = replace(prepared, metric="fidelity", samples=replace(prepared.samples, labels=None))
    assert judge_accuracy(unlabelled, wrong_on(prepared, 2)).value == pytest.approx(62 / 64)


def measurement(int8_ns: float, *, noise: float, sessions: int = 8) -> Measurement:
    """int8 against float16 at 100 us, each session off by `noise` of its own."""
    random = np.random.default_rng(3)
    records = []
    for _ in range(sessions):
        shift = np.exp(random.normal(0, noise))
        samples = {"engine": np.full(12, int8_ns * shift), "float16": np.full(12, 100_000.0)}
        records.append(
            SessionRecord(
                samples_ns={label: tuple(map(int, taken)) for label, taken in samples.items()},
                cpu_ns={},
                warm_up={},
                peak_rss_bytes={},
                conditions_before={},
                conditions_after={},
            )
        )
    engine = MeasuredEngine(sha256="", size_bytes=1, backend="tensorrt", settings={})
    protocol = Protocol(
        threads={},
        interleaved=True,
        sessions=sessions,
        rounds=4,
        chunk=3,
        dropped_per_chunk=1,
        seed=0,
        warm_up=WarmUpRule(),
    )
    return Measurement(
        host={}, protocol=protocol, engines={"engine": engine, "float16": engine}, sessions=tuple(records)
    )


def test_int8_is_called_slower_only_beyond_the_noise() -> None:
    for int8_ns, noise, slower in ((120_000, 0.02, True), (103_000, 0.05, False), (100_500, 0.0, False)):
        ratio = ratio_of(measurement(int8_ns, noise=noise), "engine", "float16")
        assert ratio.surely_slower is slower
    assert not ratio_of(measurement(80_000, noise=0.02), "engine", "float16").slower


def test_one_session_alone_decides_nothing() -> None:
    ratio = ratio_of(measurement(300_000, noise=0.0, sessions=1), "engine", "float16")
    assert ratio.slower
    assert not ratio.surely_slower


def test_memory_that_a_call_keeps_on_the_gpu_is_seen(install: object) -> None:
    from enginewright_runtime.tensorrt.cuda import open_cuda

    install("10.3.0")  # type: ignore[operator]
    cuda = open_cuda()
    assert growth_over(lambda: cuda.device_memory(1 << 10), 100).gpu == 100 << 10
    assert growth_over(lambda: None, 100).gpu == 0


def test_an_unknown_effort_is_refused() -> None:
    assert chosen_effort({}) == Effort()
    assert chosen_effort({VARIABLE: "smoke"}).calls < 1000
    with pytest.raises(ValueError, match="must be one of full, smoke"):
        chosen_effort({VARIABLE: "little"})
