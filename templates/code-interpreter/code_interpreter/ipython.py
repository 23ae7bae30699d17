"""Python's kernel: IPython's, with the environment of the sandbox it is in and of each execution, and with what SDKs want to know of
figures and tables besides how they look."""

import contextlib
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import zmq
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from IPython.core.formatters import BaseFormatter
from traitlets import ObjectName, Unicode
from traitlets.config import Config

from . import frames

# Where a request's metadata has what is ours.
METADATA = "code_interpreter"


class Kernel(IPythonKernel):
    """IPython's, told more."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._sandbox: dict[str, str] = {}
        self._identity = ""

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, Any] | None = None,
        allow_stdin: bool = False,
        *,
        cell_meta: dict[str, Any] | None = None,
        cell_id: str | None = None,
    ) -> dict[str, Any]:
        """With the cell's environment around it."""
        told = (cell_meta or {}).get(METADATA, {})
        self._wake_up_as(told.get("identity", ""))
        self._be_in(told.get("sandbox", {}))
        with _environment(told.get("variables", {})):
            return await super().do_execute(
                code, silent, store_history, user_expressions, allow_stdin, cell_meta=cell_meta, cell_id=cell_id
            )

    def _wake_up_as(self, identity: str) -> None:
        """A kernel that waited in a template is the same in all of its sandboxes, and so would be what they draw by lot."""
        if identity and not self._identity:
            random.seed()
            numpy = sys.modules.get("numpy")
            if numpy is not None:
                numpy.random.seed()
            self._identity = identity

    def _be_in(self, sandbox: dict[str, str]) -> None:
        """Variables that have not changed are the cells' own to change."""
        for name in self._sandbox.keys() - sandbox.keys():
            os.environ.pop(name, None)
        os.environ.update({name: value for name, value in sandbox.items() if self._sandbox.get(name) != value})
        self._sandbox = dict(sandbox)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Facts(BaseFormatter):
    """A dictionary about an object, beside its pictures."""

    _return_type = dict


class _ChartFormatter(_Facts):
    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")


class _DataFormatter(_Facts):
    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")


class _App(IPKernelApp):
    name = "code-interpreter"
    kernel_class = Kernel

    def init_iopub(self, context: zmq.Context) -> None:
        """Nothing is dropped for a reader that is slow: a lost message may be the one that says that a cell has ended."""
        context.setsockopt(zmq.SNDHWM, 0)
        super().init_iopub(context)


def serve(connection_file: str, is_ready: Callable[[], object]) -> None:
    """Until the kernel is told to end."""
    config = Config()
    # History lives in memory: its file would be shared by all kernels, and is nobody's to read.
    config.HistoryManager.enabled = False
    config.IPKernelApp.log_level = logging.CRITICAL
    app = _App.instance(config=config, connection_file=connection_file)
    app.initialize([])
    shell = app.shell
    assert shell is not None
    formatter = shell.display_formatter
    for facts in (_ChartFormatter(parent=formatter), _DataFormatter(parent=formatter)):
        formatter.formatters[facts.format_type] = facts
    formatter.active_types = formatter.format_types
    # pandas says that its tables come from `pandas` itself since version 3.
    for module in ("pandas", "pandas.core.frame"):
        formatter.formatters["e2b/data"].for_type_by_name(module, "DataFrame", frames.of_frame)
    if "matplotlib" in sys.modules:
        shell.enable_matplotlib("inline")
    is_ready()
    app.start()
