"""The drawing of accuracy against latency."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from frontier_drawing import Box, Dot, draw, not_beaten, place_labels
from hypothesis import given
from hypothesis import strategies as st
from side_by_side import Spread

_FRAME = Box(0, 0, 1200, 800)


def _dot(label: str, latency_ms: float, points: float) -> Dot:
    return Dot(
        label, Spread(latency_ms, latency_ms, latency_ms), Spread(points, points - 0.2, points + 0.2), filled=True
    )


@given(st.lists(st.tuples(st.floats(300, 900), st.floats(200, 600)), min_size=1, max_size=10))
def test_labels_cover_neither_each_other_nor_the_dots(anchors: list[tuple[float, float]]) -> None:
    dots = [Box.around(x, y, 14, 14) for x, y in anchors]
    placed = place_labels(anchors, [(90.0, 14.0)] * len(anchors), dots, _FRAME)
    assert all(one.overlap(other) == 0 for one, other in combinations(placed, 2))
    assert all(label.overlap(dot) == 0 for label in placed for dot in dots)
    assert all(label.within(_FRAME) for label in placed)


def test_what_another_dot_beats_in_both_is_not_on_the_line() -> None:
    dots = [
        _dot("slow and best", 3, 0.1),
        _dot("beaten", 2, -1),
        _dot("fast", 1, -0.5),
        _dot("equal and slower", 2, -0.5),
    ]
    assert [dot.label for dot in not_beaten(dots)] == ["fast", "slow and best"]


def test_a_drawing_is_1200_by_800_and_the_same_numbers_give_the_same_svg(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib, of the extra dev")
    dots = [_dot("one", 1.0, -0.1), _dot("two", 1.02, -0.1), _dot("three", 0.5, -2.0)]
    png, svg = draw(dots, Spread(2.0, 1.9, 2.1), "how it was measured", tmp_path / "first")
    header = png.read_bytes()[:24]
    assert (int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")) == (1200, 800)
    assert all(f">{text}</text>" in svg.read_text() for text in ("one", "two", "three", "how it was measured"))
    again = draw(dots, Spread(2.0, 1.9, 2.1), "how it was measured", tmp_path / "second")[1]
    assert again.read_bytes() == svg.read_bytes()
