"""The benchmark of what our Python takes of a call of a TensorRT engine: that it calls the engine, and judges."""

from __future__ import annotations

import numpy as np
import pytest
import tensorrt_overhead


@pytest.mark.parametrize("through", tensorrt_overhead.THROUGH)
def test_the_engine_that_computes_nothing_is_ours_and_takes_what_it_is_given(through: str) -> None:
    engine = tensorrt_overhead.engine_of((1, 16), through=through, cuda_graph=True)
    assert engine.run({"x": np.ones((1, 16), np.float32)})["y"].shape == (1, 43)
    assert [str(spec) for spec in engine.inputs] == ["x: float32 [1, 16]"]


def test_it_runs_and_prints_all_ways_of_calling(capsys: pytest.CaptureFixture[str]) -> None:
    assert tensorrt_overhead.main(["--rounds", "12", "--warm-up", "10"]) in (0, 1)
    out = capsys.readouterr().out
    assert out.count("run_into, graph on") == 4
    assert "nothing is computed" in out


def test_a_call_that_takes_longer_than_the_goal_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert tensorrt_overhead.print_times("x", {"run": [14.0] * 20})
    assert not tensorrt_overhead.print_times("x", {"run": [14.0] * 20, "run_into": [16.0] * 20})
    assert "MISSED" in capsys.readouterr().out
