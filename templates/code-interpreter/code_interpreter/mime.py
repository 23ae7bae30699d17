"""From what Jupyter's kernels show, keyed by MIME type, to what the SDKs know as a result."""

from typing import Any

from .kernel import Event

_FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}


def result(bundle: dict[str, Any], is_main: bool) -> Event:
    """`is_main`: the value of the cell's last line, and not what it displayed on the way."""
    event: Event = {"type": "result", "is_main_result": is_main}
    extra = {}
    for mime, content in bundle.items():
        name = _FIELDS.get(mime)
        if name is None:
            extra[mime] = content
        else:
            event[name] = content
    text = event.get("text")
    # A string is shown as it is, not as Python writes it.
    if isinstance(text, str) and len(text) >= 2 and text[0] == text[-1] == "'":
        event["text"] = text[1:-1]
    if extra:
        event["extra"] = extra
    return event
