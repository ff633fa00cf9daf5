"""The 43 signs, drawn in the style of the Vienna Convention on Road Signs and Signals (1968).

Several are close to each other on purpose: limits that differ in one digit, arrows that differ in direction, warnings
that differ in a pictogram of a few pixels. `SIGNS` maps each class to its drawing, in the order of the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from canvas import Board, Colour, Point, Sheet, Style, arc, rounded
from PIL import Image

WHITE: Colour = (232, 232, 228)
RED: Colour = (186, 22, 34)
BLUE: Colour = (16, 74, 158)
YELLOW: Colour = (240, 186, 20)
BLACK: Colour = (26, 26, 28)
GREEN: Colour = (24, 138, 72)

Drawing = Callable[[Board], None]
Stroke = Sequence[Point]

_OVAL: Stroke = [*arc(0, -0.5, 0.5, 0.5, 180, 360), *arc(0, 0.5, 0.5, 0.5, 0, 180), (-0.5, -0.5)]
# Strokes of a character in a box with x from -0.5 to 0.5 and y from -1 to 1.
_CHARACTERS: dict[str, tuple[Stroke, ...]] = {
    "0": (_OVAL,),
    "1": ([(-0.3, -0.6), (0.12, -1), (0.12, 1)],),
    "2": ([*arc(0, -0.48, 0.48, 0.52, 195, 390), (-0.48, 1), (0.5, 1)],),
    "3": (
        [*arc(0, -0.52, 0.46, 0.48, 205, 450), (-0.15, -0.04)],
        [(-0.15, -0.04), *arc(0, 0.48, 0.5, 0.52, 270, 515)],
    ),
    "5": ([(0.42, -1), (-0.38, -1), (-0.45, -0.05), *arc(0, 0.38, 0.5, 0.62, 220, 510)],),
    "6": ([*arc(0, -0.45, 0.5, 0.55, 325, 180), *arc(0, 0.42, 0.5, 0.58, 180, -180)],),
    "7": ([(-0.5, -1), (0.5, -1), (-0.12, 1)],),
    "8": (arc(0, -0.52, 0.42, 0.48), arc(0, 0.46, 0.5, 0.54)),
    "O": (_OVAL,),
    "P": ([(-0.42, 1), (-0.42, -1), *arc(0.05, -0.45, 0.45, 0.55, 270, 450), (-0.42, 0.1)],),
    "S": ([*arc(0, -0.5, 0.46, 0.5, 330, 90), *arc(0, 0.5, 0.48, 0.5, 270, 510)],),
    "T": ([(-0.5, -1), (0.5, -1)], [(0, -1), (0, 1)]),
}


def draw(name: str, size: int, style: Style) -> Image.Image:
    """Draw one sign as RGBA of `size` pixels square."""
    sheet = Sheet(size)
    SIGNS[name](Board(sheet, style))
    return sheet.image()


def _write(board: Board, text: str, *, height: float, width: float, stroke: float, gap: float, fill: Colour) -> None:
    """Write centred on the origin; `height` and `width` are those of one character, `gap` that between two."""
    advance = width + gap
    left = -advance * (len(text) - 1) / 2
    for place, character in enumerate(text):
        for points in _CHARACTERS[character]:
            board.stroke([(left + place * advance + x * width, y * height / 2) for x, y in points], stroke, fill)


# Plates: the shape, the border and the field of a group of signs.


def _prohibition(board: Board) -> Board:
    board.cut(arc(0, 0, 0.98, 0.98))
    board.disc(0, 0, 1.0, RED)
    board.disc(0, 0, 0.98 - 0.2 * board.style.border, WHITE)
    return board.inset(0, 0, board.style.glyph)


def _warning(board: Board) -> Board:
    reach, radius, centre = 0.98, 0.12, 0.245
    board.cut(rounded(3, reach, radius, turn=-90, y=centre))
    board.area(rounded(3, reach, radius + 0.05, turn=-90, y=centre), RED)
    board.area(rounded(3, reach - 0.24 * board.style.border, 0.05, turn=-90, y=centre), WHITE)
    return board.inset(0, 0.27, 0.5 * board.style.glyph)


def _mandatory(board: Board) -> Board:
    board.cut(arc(0, 0, 0.98, 0.98))
    board.disc(0, 0, 1.0, WHITE)
    board.disc(0, 0, 0.98 - 0.06 * board.style.border, BLUE)
    return board.inset(0, 0, 0.72 * board.style.glyph)


def _information(board: Board) -> Board:
    board.cut(rounded(4, 1.17, 0.12, turn=45))
    board.area(rounded(4, 1.17, 0.15, turn=45), WHITE)
    board.area(rounded(4, 1.17 - 0.06 * board.style.border, 0.1, turn=45), BLUE)
    return board.inset(0, 0, 0.85 * board.style.glyph)


def _diamond(board: Board, *, ended: bool) -> None:
    board.cut(rounded(4, 0.88, 0.1, turn=0))
    board.area(rounded(4, 0.9, 0.12, turn=0), WHITE)
    board.area(rounded(4, 0.62 * board.style.border**0.5, 0.08, turn=0), BLACK)
    board.area(rounded(4, 0.58 * board.style.border**0.5, 0.08, turn=0), YELLOW)
    if ended:
        for shift in (-0.14, 0.0, 0.14):
            board.stroke([(-0.5 + shift, 0.5 + shift), (0.5 + shift, -0.5 + shift)], 0.05, BLACK)


# Signs that are more than a plate and a figure.


def _speed(board: Board, text: str) -> None:
    glyph = _prohibition(board)
    if len(text) == 2:
        _write(glyph, text, height=0.78, width=0.36, stroke=0.15, gap=0.22, fill=BLACK)
    else:
        _write(glyph, text, height=0.7, width=0.25, stroke=0.12, gap=0.18, fill=BLACK)


def _no_entry(board: Board) -> None:
    board.cut(arc(0, 0, 0.98, 0.98))
    board.disc(0, 0, 1.0, WHITE)
    board.disc(0, 0, 0.98 - 0.05 * board.style.border, RED)
    half = 0.15 * board.style.stroke
    board.area([(-0.7, -half), (0.7, -half), (0.7, half), (-0.7, half)], WHITE)


def _no_stopping(board: Board, *, crossed: bool) -> None:
    board.cut(arc(0, 0, 0.98, 0.98))
    board.disc(0, 0, 1.0, RED)
    board.disc(0, 0, 0.98 - 0.17 * board.style.border, BLUE)
    board.stroke([(-0.55, -0.55), (0.55, 0.55)], 0.17, RED)
    if crossed:
        board.stroke([(-0.55, 0.55), (0.55, -0.55)], 0.17, RED)


def _end_of_limits(board: Board) -> None:
    board.cut(arc(0, 0, 0.98, 0.98))
    board.disc(0, 0, 1.0, BLACK)
    board.disc(0, 0, 0.94, WHITE)
    for shift in (-0.27, -0.09, 0.09, 0.27):
        board.stroke([(-0.6 + shift, 0.6 + shift), (0.6 + shift, -0.6 + shift)], 0.06, BLACK)


def _yield(board: Board) -> None:
    board.cut(rounded(3, 0.98, 0.12, turn=90, y=-0.245))
    board.area(rounded(3, 0.98, 0.17, turn=90, y=-0.245), RED)
    board.area(rounded(3, 0.98 - 0.32 * board.style.border, 0.05, turn=90, y=-0.245), WHITE)


def _stop(board: Board) -> None:
    board.cut(rounded(8, 0.98, 0.04, turn=22.5))
    board.area(rounded(8, 1.0, 0.06, turn=22.5), WHITE)
    board.area(rounded(8, 0.98 - 0.06 * board.style.border, 0.03, turn=22.5), RED)
    _write(board.inset(0, 0, board.style.glyph), "STOP", height=0.58, width=0.24, stroke=0.105, gap=0.19, fill=WHITE)


def _crossing(board: Board) -> None:
    glyph = _information(board)
    glyph.area([(0, -0.78), (0.82, 0.68), (-0.82, 0.68)], WHITE)
    _walker(glyph.inset(0.0, 0.18, 0.46), BLACK)


def _parking(board: Board) -> None:
    glyph = _information(board)
    _write(glyph, "P", height=1.25, width=0.75, stroke=0.24, gap=0, fill=WHITE)


def _forbidden(board: Board, figure: Callable[[Board], None]) -> None:
    """Draw a figure and, across it, the diagonal that forbids it."""
    figure(_prohibition(board).inset(0, 0, 0.62))
    board.stroke([(-0.6, -0.6), (0.6, 0.6)], 0.12, RED)


def _no_passing(board: Board) -> None:
    glyph = _prohibition(board)
    _car(glyph.inset(-0.36, 0.02, 0.34), RED)
    _car(glyph.inset(0.36, 0.02, 0.34), BLACK)


def _no_vehicles(board: Board) -> None:
    _prohibition(board)


def _no_trucks(board: Board) -> None:
    _truck(_prohibition(board).inset(0, 0.02, 0.56), BLACK)


# Figures, each in a board from -1 to 1.


def _ahead(board: Board, fill: Colour) -> None:
    board.arrow([(0, 0.95), (0, -1)], 0.36, fill)


def _turn(board: Board, fill: Colour) -> None:
    """Draw an arrow that comes from below and turns right."""
    board.arrow([(-0.45, 0.85), (-0.45, 0.1), *arc(-0.1, -0.05, 0.35, 0.35, 180, 270), (0.95, -0.4)], 0.33, fill)


def _ahead_or_turn(board: Board, fill: Colour) -> None:
    """Draw an arrow ahead with a branch to the right."""
    board.arrow([(-0.35, 0.95), (-0.35, -1)], 0.28, fill)
    board.arrow([(-0.35, 0.65), *arc(-0.05, 0.55, 0.3, 0.35, 180, 270), (0.95, 0.2)], 0.28, fill)


def _keep(board: Board, fill: Colour) -> None:
    """Draw an arrow that points down to the right."""
    board.arrow([(-0.6, -0.6), (0.72, 0.72)], 0.36, fill)


def _roundabout(board: Board, fill: Colour) -> None:
    for start in (-70, 50, 170):
        tip = arc(0, 0, 0.68, 0.68, start, start + 100)[-1]
        board.arrow([*arc(0, 0, 0.68, 0.68, start, start + 62), tip], 0.22, fill)


def _exclamation(board: Board, fill: Colour) -> None:
    board.area([(-0.2, -0.95), (0.2, -0.95), (0.11, 0.3), (-0.11, 0.3)], fill)
    board.disc(0, 0.66, 0.19, fill)


def _curve(board: Board, fill: Colour) -> None:
    """Draw a road that bends to the right."""
    board.arrow([(-0.35, 0.85), (-0.35, 0.3), (-0.2, -0.1), (0.45, -0.75)], 0.26, fill)


def _crossroads(board: Board, fill: Colour) -> None:
    board.stroke([(-0.6, -0.6), (0.6, 0.7)], 0.24, fill)
    board.stroke([(0.6, -0.6), (-0.6, 0.7)], 0.24, fill)


def _bumps(board: Board, fill: Colour) -> None:
    left, right = (arc(x, 0.5, 0.42, 0.62, 180, 360) for x in (-0.45, 0.45))
    board.area([(-1.0, 0.7), (-1.0, 0.5), *left, *right, (1.0, 0.5), (1.0, 0.7)], fill)


def _slippery(board: Board, fill: Colour) -> None:
    _car(board.inset(0, -0.42, 0.46), fill)
    for x in (-0.3, 0.3):
        board.stroke([(x + 0.12, 0.1), (x - 0.12, 0.35), (x + 0.12, 0.6), (x - 0.12, 0.9)], 0.13, fill)


def _narrows(board: Board, fill: Colour) -> None:
    for side in (-1, 1):
        board.stroke([(0.5 * side, 0.85), (0.5 * side, 0.35), (0.2 * side, -0.1), (0.2 * side, -0.8)], 0.2, fill)


def _works(board: Board, fill: Colour) -> None:
    board.disc(-0.05, -0.72, 0.18, fill)
    board.stroke([(-0.1, -0.4), (-0.4, 0.15)], 0.28, fill)
    board.stroke([(-0.4, 0.15), (-0.2, 0.5), (-0.3, 0.85)], 0.17, fill)
    board.stroke([(-0.4, 0.15), (-0.7, 0.85)], 0.17, fill)
    board.stroke([(-0.1, -0.35), (0.2, -0.05), (0.45, 0.35)], 0.13, fill)
    board.stroke([(-0.15, 0.15), (0.55, 0.45)], 0.09, fill)
    board.area([(0.3, 0.9), (0.7, 0.35), (1.1, 0.9)], fill)


def _signals(board: Board) -> None:
    board.stroke([(0, -0.62), (0, 0.62)], 0.62, BLACK)
    for y, fill in ((-0.56, RED), (0.0, YELLOW), (0.56, GREEN)):
        board.disc(0, y, 0.21, fill)


def _walker(board: Board, fill: Colour) -> None:
    board.disc(0.08, -0.78, 0.2, fill)
    board.stroke([(0.05, -0.42), (-0.05, 0.1)], 0.3, fill)
    board.stroke([(-0.05, 0.1), (0.25, 0.45), (0.3, 0.95)], 0.19, fill)
    board.stroke([(-0.05, 0.1), (-0.2, 0.5), (-0.5, 0.9)], 0.19, fill)
    board.stroke([(0.05, -0.4), (0.45, -0.05)], 0.13, fill)
    board.stroke([(0.0, -0.4), (-0.4, 0.0)], 0.13, fill)


def _children(board: Board, fill: Colour) -> None:
    _walker(board.inset(-0.42, -0.02, 0.88), fill)
    _walker(board.inset(0.5, 0.2, 0.66), fill)


def _bicycle(board: Board, fill: Colour) -> None:
    for x in (-0.58, 0.58):
        board.stroke(arc(x, 0.35, 0.4, 0.4), 0.12, fill)
    board.stroke([(-0.58, 0.35), (-0.25, -0.3), (0.35, -0.3), (0.0, 0.35), (-0.25, -0.3)], 0.12, fill)
    board.stroke([(-0.58, 0.35), (0.0, 0.35)], 0.12, fill)
    board.stroke([(0.58, 0.35), (0.3, -0.6), (0.55, -0.65)], 0.12, fill)
    board.stroke([(-0.4, -0.5), (-0.1, -0.5)], 0.14, fill)


def _car(board: Board, fill: Colour) -> None:
    """Draw a car from behind."""
    board.area([(-0.62, -0.7), (0.62, -0.7), (0.88, -0.05), (0.95, 0.5), (-0.95, 0.5), (-0.88, -0.05)], fill)
    board.area([(-0.48, -0.5), (0.48, -0.5), (0.64, -0.1), (-0.64, -0.1)], WHITE)
    for x in (-0.68, 0.68):
        board.stroke([(x, 0.5), (x, 0.72)], 0.3, fill)


def _truck(board: Board, fill: Colour) -> None:
    board.area([(-1.05, -0.65), (0.35, -0.65), (0.35, 0.4), (-1.05, 0.4)], fill)
    board.area([(0.42, -0.3), (0.8, -0.3), (1.05, 0.05), (1.05, 0.4), (0.42, 0.4)], fill)
    for x in (-0.65, 0.7):
        board.disc(x, 0.45, 0.27, WHITE)
        board.disc(x, 0.45, 0.2, fill)


def _warn(board: Board, figure: Callable[[Board, Colour], None], *, mirrored: bool = False) -> None:
    figure(_warning(board).inset(0, 0, 1.0, mirrored=mirrored), BLACK)


def _order(board: Board, figure: Callable[[Board, Colour], None], *, mirrored: bool = False) -> None:
    figure(_mandatory(board).inset(0, 0, 1.0, mirrored=mirrored), WHITE)


def _forbid_turn(board: Board, *, mirrored: bool) -> None:
    _forbidden(board, lambda glyph: _turn(glyph.inset(0, 0, 1.0, mirrored=mirrored), BLACK))


SIGNS: dict[str, Drawing] = {
    "speed limit 20": partial(_speed, text="20"),
    "speed limit 30": partial(_speed, text="30"),
    "speed limit 50": partial(_speed, text="50"),
    "speed limit 60": partial(_speed, text="60"),
    "speed limit 70": partial(_speed, text="70"),
    "speed limit 80": partial(_speed, text="80"),
    "speed limit 100": partial(_speed, text="100"),
    "speed limit 120": partial(_speed, text="120"),
    "end of all limits": _end_of_limits,
    "no vehicles": _no_vehicles,
    "no entry": _no_entry,
    "no passing": _no_passing,
    "no trucks": _no_trucks,
    "no left turn": partial(_forbid_turn, mirrored=True),
    "no right turn": partial(_forbid_turn, mirrored=False),
    "no stopping": partial(_no_stopping, crossed=True),
    "no parking": partial(_no_stopping, crossed=False),
    "give way": _yield,
    "stop": _stop,
    "priority road": partial(_diamond, ended=False),
    "end of priority road": partial(_diamond, ended=True),
    "danger": partial(_warn, figure=_exclamation),
    "curve left": partial(_warn, figure=_curve, mirrored=True),
    "curve right": partial(_warn, figure=_curve),
    "crossroads": partial(_warn, figure=_crossroads),
    "uneven road": partial(_warn, figure=_bumps),
    "slippery road": partial(_warn, figure=_slippery),
    "road narrows": partial(_warn, figure=_narrows),
    "road works": partial(_warn, figure=_works),
    "traffic signals": lambda board: _signals(_warning(board)),
    "pedestrians": partial(_warn, figure=_walker),
    "children": partial(_warn, figure=_children),
    "bicycles": partial(_warn, figure=_bicycle),
    "ahead only": partial(_order, figure=_ahead),
    "turn left": partial(_order, figure=_turn, mirrored=True),
    "turn right": partial(_order, figure=_turn),
    "ahead or left": partial(_order, figure=_ahead_or_turn, mirrored=True),
    "ahead or right": partial(_order, figure=_ahead_or_turn),
    "keep left": partial(_order, figure=_keep, mirrored=True),
    "keep right": partial(_order, figure=_keep),
    "roundabout": partial(_order, figure=_roundabout),
    "pedestrian crossing": _crossing,
    "parking": _parking,
}
