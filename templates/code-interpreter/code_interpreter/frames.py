"""What a table of pandas holds, as SDKs take it: a list for each column."""

import datetime
import math
from typing import Any

# Beyond this a table is a matter of files: it is shown, and its data are not told.
_CELLS = 500_000


def of_frame(frame: Any) -> dict[str, list[Any]] | None:
    """By column; columns of one name are told apart by nothing, so a table with such has no data."""
    names = [str(name) for name in frame.columns]
    if frame.size > _CELLS or len(set(names)) != len(names):
        return None
    return {name: [plain(value) for value in frame.iloc[:, index].tolist()] for index, name in enumerate(names)}


def plain(value: Any) -> Any:
    """As JSON has it: what JSON has no number for is nothing, times are in ISO 8601, and all else is told by its text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    # pandas' own words for nothing: both differ from themselves, or cannot say.
    if type(value).__name__ in ("NaTType", "NAType"):
        return None
    if isinstance(value, (datetime.datetime, datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return plain(value.item())
    return str(value)
