"""What a figure of matplotlib shows, as SDKs have it: for each axes its kind (line, scatter, bar, pie, box and whisker), labels, scales
and values. Several axes are a superchart; one whose content is of none of these kinds is `unknown`, and empty ones do not count.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.dates import num2date
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Wedge
from matplotlib.ticker import FixedFormatter

from .frames import plain

Chart = dict[str, Any]

# Beyond this a picture says more.
_POINTS = 50_000
_UNIT = re.compile(r"\(([^()]+)\)\s*$")
# An axes' boxes, kept with it: what is drawn of one does not say which of its lines is what.
_BOXES = "_code_interpreter_boxes"


def of_figure(figure: Figure) -> Chart | None:
    """None if it shows nothing, or too much, or what cannot be told."""
    try:
        if sum(_points(axes) for axes in figure.axes) > _POINTS:
            return None
        found = [chart for axes in figure.axes if (chart := _of_axes(axes)) is not None]
    except Exception:
        # Anything may be in a figure. Its picture is shown in any case, and a traceback of ours is not what a cell should say.
        return None
    if len(found) > 1:
        return {"type": "superchart", "title": figure.get_suptitle() or None, "elements": found}
    return found[0] if found else None


def teach() -> None:
    """From now on figures tell what they show, and axes know the statistics of the boxes drawn in them."""
    # As a method: what is registered for figures is forgotten whenever their format is set.
    Figure._repr_e2b_chart_ = of_figure
    draw: Callable[..., dict[str, list[Any]]] = Axes.bxp

    def bxp(axes: Axes, bxpstats: Iterable[dict[str, Any]], *arguments: Any, **options: Any) -> dict[str, list[Any]]:
        statistics = list(bxpstats)
        drawn = draw(axes, statistics, *arguments, **options)
        positions = arguments[0] if arguments else options.get("positions")
        if positions is None:
            positions = range(1, len(statistics) + 1)
        boxes = axes.__dict__.setdefault(_BOXES, [])
        boxes.append((drawn["medians"], list(zip(positions, statistics, strict=False)), _artists(drawn), _lies(options)))
        return drawn

    bxp.__doc__ = draw.__doc__
    Axes.bxp = bxp


def _artists(drawn: dict[str, list[Any]]) -> set[Any]:
    return {artist for artists in drawn.values() for artist in artists}


def _lies(options: dict[str, Any]) -> bool:
    """Whether boxes lie on their side."""
    return options.get("orientation") == "horizontal" or options.get("vert") is False


def _points(axes: Axes) -> int:
    lines = sum(len(line.get_xdata(orig=True)) for line in axes.get_lines())
    return lines + sum(len(dots.get_offsets()) for dots in axes.collections if isinstance(dots, PathCollection))


def _of_axes(axes: Axes) -> Chart | None:
    wedges = [patch for patch in axes.patches if isinstance(patch, Wedge)]
    bars = [container for container in axes.containers if isinstance(container, BarContainer) and container.patches]
    boxes = [entry for entry in axes.__dict__.get(_BOXES, []) if entry[0] and entry[0][0].axes is axes]
    if wedges:
        return {"type": "pie", "title": axes.get_title() or None, "elements": [_slice(wedge) for wedge in wedges]}
    if bars:
        return _plane(axes, "bar", [bar for container in bars for bar in _bars(axes, container)])
    if boxes:
        return _plane(axes, "box_and_whisker", _boxes(axes, boxes))
    lines = _lines(axes)
    dots = [collection for collection in axes.collections if isinstance(collection, PathCollection)]
    elements = [_line(axes, line) for line in lines] + [_dots(axes, collection) for collection in dots]
    if elements:
        is_line = any(line.get_linestyle() not in ("None", "none", " ", "") for line in lines)
        ticks = {**_ticks("x", axes.xaxis), **_ticks("y", axes.yaxis)}
        return _plane(axes, "line" if is_line else "scatter", elements) | ticks
    if axes.has_data():
        return {"type": "unknown", "title": axes.get_title() or None, "elements": []}
    return None


def _plane(axes: Axes, kind: str, elements: list[Chart]) -> Chart:
    chart: Chart = {"type": kind, "title": axes.get_title() or None, "elements": elements}
    for name, label in (("x", axes.get_xlabel()), ("y", axes.get_ylabel())):
        unit = _UNIT.search(label)
        chart |= {f"{name}_label": label or None, f"{name}_unit": unit and unit[1]}
    return chart


def _slice(wedge: Wedge) -> Chart:
    # Angles come from 32 bits, of which this much is true.
    return {"label": _label(wedge), "angle": round(float(wedge.theta2 - wedge.theta1), 3), "radius": float(wedge.r)}


def _bars(axes: Axes, container: BarContainer) -> list[Chart]:
    is_upright = container.orientation != "horizontal"
    axis = axes.xaxis if is_upright else axes.yaxis
    group = _label(container)
    found = []
    for bar in container.patches:
        width, height = bar.get_width(), bar.get_height()
        middle = bar.get_x() + width / 2 if is_upright else bar.get_y() + height / 2
        value = height if is_upright else width
        found.append({"label": _name_at(axis, middle), "group": group, "value": plain(float(value))})
    return found


def _boxes(axes: Axes, boxes: list[Any]) -> list[Chart]:
    by_position: dict[float, Chart] = {}
    for _, statistics, _, lies in boxes:
        axis = axes.yaxis if lies else axes.xaxis
        for position, of in statistics:
            # Drawn over another, it is what is seen.
            by_position[float(position)] = {
                "label": _name_at(axis, float(position)) or str(of.get("label", "")),
                "min": plain(float(of["whislo"])),
                "first_quartile": plain(float(of["q1"])),
                "median": plain(float(of["med"])),
                "third_quartile": plain(float(of["q3"])),
                "max": plain(float(of["whishi"])),
                "outliers": [plain(float(value)) for value in of.get("fliers", [])],
            }
    return [by_position[position] for position in sorted(by_position)]


def _lines(axes: Axes) -> list[Line2D]:
    """Those that are data: no caps of error bars, no parts of boxes, and none that are drawn across all of the axes."""
    decoration = {artist for entry in axes.__dict__.get(_BOXES, []) for artist in entry[2]}
    for container in axes.containers:
        if isinstance(container, ErrorbarContainer):
            decoration.update(container[1])
    return [
        line
        for line in axes.get_lines()
        if line not in decoration and all(line.get_transform().contains_branch_seperately(axes.transData))
    ]


def _line(axes: Axes, line: Line2D) -> Chart:
    return {"label": _label(line), "points": _pairs(axes, line.get_xdata(orig=True), line.get_ydata(orig=True))}


def _dots(axes: Axes, dots: PathCollection) -> Chart:
    offsets = dots.get_offsets()
    return {"label": _label(dots), "points": _pairs(axes, offsets[:, 0], offsets[:, 1])}


def _pairs(axes: Axes, xs: Any, ys: Any) -> list[list[Any]]:
    x, y = _reader(axes.xaxis), _reader(axes.yaxis)
    return [[x(one), y(other)] for one, other in zip(_items(xs), _items(ys), strict=False)]


def _items(values: Any) -> Any:
    """One by one, as Python has them: numpy's times turn to numbers otherwise."""
    if hasattr(values, "dtype") and values.dtype.kind == "M":
        return values.astype("datetime64[us]").tolist()
    if hasattr(values, "filled"):
        values = values.filled(float("nan"))
    return values.tolist() if hasattr(values, "tolist") else values


def _reader(axis: Axis) -> Callable[[Any], Any]:
    """From a place on the axis, or what stands for it, to what is told."""
    scale = _scale(axis)

    def read(value: Any) -> Any:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if scale == "datetime":
                return _moment(value)
            if scale == "categorical":
                return _category(axis, value)
            return plain(float(value))
        return plain(value)

    return read


def _moment(place: float) -> str:
    return num2date(place).replace(tzinfo=None).isoformat()


def _ticks(name: str, axis: Axis) -> Chart:
    low, high = sorted(axis.get_view_interval())
    places = [place for place in axis.get_majorticklocs() if low <= place <= high]
    labels = axis.get_major_formatter().format_ticks(places)
    read = _reader(axis)
    return {
        f"{name}_ticks": [read(float(place)) for place in places],
        f"{name}_tick_labels": [str(label) for label in labels],
        f"{name}_scale": _scale(axis),
    }


def _scale(axis: Axis) -> str:
    converter = type(axis.get_converter()).__name__
    if "Category" in converter:
        return "categorical"
    # matplotlib's own, and pandas' of points in time; periods of pandas are numbers of another kind.
    if "Date" in converter:
        return "datetime"
    return axis.get_scale()


def _category(axis: Axis, place: float) -> Any:
    mapping = getattr(axis.units, "_mapping", {})
    return next((name for name, at in mapping.items() if at == place), plain(place))


def _name_at(axis: Axis, place: float) -> str:
    """What stands on the axis there; the number itself where nothing does."""
    scale = _scale(axis)
    if scale == "categorical":
        # Bars of several groups stand beside the category's place.
        return str(_category(axis, round(place)))
    formatter = axis.get_major_formatter()
    if isinstance(formatter, FixedFormatter):
        places = list(axis.get_majorticklocs())
        nearest = min(range(len(places)), key=lambda index: abs(places[index] - place), default=None)
        if nearest is not None and abs(places[nearest] - place) < 0.5 and nearest < len(formatter.seq):
            return str(formatter.seq[nearest])
    if scale == "datetime":
        return _moment(place)
    return f"{place:g}"


def _label(artist: Any) -> str:
    label = str(artist.get_label() or "")
    return "" if label.startswith("_") else label
