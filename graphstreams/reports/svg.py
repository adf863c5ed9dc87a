"""Draw a picture of a plan as an SVG that needs nothing else, for papers and issues."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from graphstreams.reports.colors import CRITICAL, stream_color
from graphstreams.reports.picture import SERIAL, Box, Lane, Picture
from graphstreams.reports.tables import us_text

WIDTH, LEFT, RIGHT = 1500, 160, 12  # px
_TOP, _PITCH, _HEIGHT = 60, 40, 28  # px: of the first lane, from lane to lane, of a box
_LETTER = 6.3  # px: mean width of a letter of 11 px
_PALE = 0.45  # opacity
_LEGEND = (
    "red: critical path; pale part: slowed by kernels beside it; line to a dot: wait for an event; color: stream of the plan"
)


def plan_svg(picture: Picture, title: str) -> str:
    """Return the picture under a title. Text is cut to fit its box; each box has its whole name and times as a tooltip."""
    height = _TOP + _PITCH * len(picture.lanes) + 32
    scale = (WIDTH - LEFT - RIGHT) / picture.end_us if picture.end_us else 0.0
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif" font-size="12" role="img">',
        f"<title>{_text(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="6" y="26" font-size="15">{_text(title)}</text>',
        *_axis(picture, scale),
    ]
    names = {card.kernel: card.name for card in picture.cards}
    for number, lane in enumerate(picture.lanes):
        y = _y(number)
        lines.append(f'<text x="6" y="{y + 18}">{_text(_lane_name(lane))}</text>')
        for box in lane.boxes:
            lines += _box(box, names[box.kernel], y, scale)
    lines += _arrows(picture, scale)
    lines.append(f'<text x="6" y="{height - 10}">{_LEGEND}</text>')
    return "\n".join([*lines, "</svg>"]) + "\n"


def ticks(end_us: float, most: int = 10) -> list[float]:
    """Return round times in us, from 0, at most `most` and one of them: the step is 1, 2 or 5 times a power of ten."""
    if end_us <= 0:
        return [0.0]
    step = 10.0**-6
    factors = (2.0, 2.5, 2.0)
    place = 0
    while end_us / step > most:
        step *= factors[place % 3]
        place += 1
    return [number * step for number in range(int(end_us / step + 1e-9) + 1)]


def _y(lane: int) -> int:
    return _TOP + _PITCH * lane


def _axis(picture: Picture, scale: float) -> Iterator[str]:
    bottom = _y(len(picture.lanes)) - _PITCH + _HEIGHT
    for tick in ticks(picture.end_us) if picture.lanes else ():
        x = LEFT + tick * scale
        yield f'<line x1="{x:.1f}" y1="{_TOP - 8}" x2="{x:.1f}" y2="{bottom}" stroke="#ddd"/>'
        yield f'<text x="{x:.1f}" y="{_TOP - 10}" font-size="10" fill="#666" text-anchor="middle">{tick:g}</text>'


def _lane_name(lane: Lane) -> str:
    end = max((box.end_us for box in lane.boxes), default=0.0)
    return f"{lane.name} {us_text(end)} us" if lane.kind == SERIAL else lane.name


def _box(box: Box, name: str, y: int, scale: float) -> Iterator[str]:
    x, width = LEFT + box.start_us * scale, (box.end_us - box.start_us) * scale
    own = min(width, box.alone_us * scale)
    stroke = f'stroke="{CRITICAL}" stroke-width="2"' if box.critical else 'stroke="#555" stroke-width="0.7"'
    told = f"{name}: {us_text(box.end_us - box.start_us)} us, alone {us_text(box.alone_us)} us"
    color = stream_color(box.stream)
    yield f"<g><title>{_text(told)}</title>"
    yield f'<rect x="{x:.2f}" y="{y}" width="{own:.2f}" height="{_HEIGHT}" fill="{color}"/>'
    if width > own:
        pale = f'fill="{color}" fill-opacity="{_PALE}"'
        yield f'<rect x="{x + own:.2f}" y="{y}" width="{width - own:.2f}" height="{_HEIGHT}" {pale}/>'
    yield f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{_HEIGHT}" fill="none" {stroke}/>'
    letters = int((width - 6) / _LETTER)
    if letters >= 3:
        yield f'<text x="{x + 3:.2f}" y="{y + 18}" font-size="11">{_text(name[:letters])}</text>'
    yield "</g>"


def _arrows(picture: Picture, scale: float) -> Iterator[str]:
    for arrow in picture.arrows:
        x1, x2 = LEFT + arrow.start_us * scale, LEFT + arrow.end_us * scale
        y1, y2 = edges(arrow.source_lane, arrow.target_lane)
        yield f'<line x1="{x1:.2f}" y1="{y1}" x2="{x2:.2f}" y2="{y2}" stroke="#222"/>'
        yield f'<circle cx="{x2:.2f}" cy="{y2}" r="3" fill="#222"/>'


def edges(source: int, target: int) -> Sequence[int]:
    """Return the y at which an arrow leaves its lane and that at which it reaches the other one, in px."""
    if source == target:
        return _y(source) + _HEIGHT, _y(target) + _HEIGHT
    down = source < target
    return _y(source) + _HEIGHT * down, _y(target) + _HEIGHT * (not down)


def _text(text: str) -> str:
    """Return text that XML allows, escaped."""
    return escape("".join(letter if letter.isprintable() else " " for letter in text))
