"""Python's kernel itself, in a process of its own: IPython's shell, with the environment of the sandbox it is in and of each execution,
and with what SDKs want to know of figures and tables besides how they look.

Cells run within an event loop, as in Jupyter: what they leave running there goes on between them. `kernel.py` has the protocol.
"""

import asyncio
import base64
import builtins
import contextlib
import io
import json
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from IPython.core import page
from IPython.core.displayhook import DisplayHook
from IPython.core.displaypub import DisplayPublisher
from IPython.core.error import StdinNotImplementedError, UsageError
from IPython.core.formatters import BaseFormatter
from IPython.core.interactiveshell import InteractiveShell
from traitlets import ObjectName, Type, Unicode
from traitlets.config import Config

from . import frames, mime

_CHUNK = 1 << 20


class Voice:
    """Says what happens. Any thread may speak; a fork of the kernel is not heard."""

    def __init__(self) -> None:
        self._connection: socket.socket | None = None
        self._turn = threading.Lock()
        self._pid = 0
        self.cell = 0
        # Nothing may come in between the two halves of a line.
        self.is_speaking = False
        self.was_interrupted = False

    def connect(self, connection: socket.socket) -> None:
        """From here on somebody listens."""
        self._connection = connection
        self._pid = os.getpid()

    def is_original(self) -> bool:
        """Whether this is the kernel, and not what a cell has made of it by forking."""
        return os.getpid() == self._pid

    def event(self, event: dict[str, Any]) -> None:
        """As the client is told it."""
        self.say(event=event)

    def say(self, **said: Any) -> None:
        """Of the running cell."""
        if self._connection is None or not self.is_original():
            return
        line = json.dumps({"cell": self.cell, **said}).encode("ascii") + b"\n"
        is_main = threading.current_thread() is threading.main_thread()
        with self._turn:
            self.is_speaking = is_main
            try:
                self._connection.sendall(line)
            finally:
                if is_main:
                    self.is_speaking = False
        if is_main and self.was_interrupted:
            self.was_interrupted = False
            raise KeyboardInterrupt

    def result(self, bundle: dict[str, Any], is_main: bool) -> None:
        """Something that is shown."""
        self.event(mime.result({kind: _as_json(content) for kind, content in bundle.items()}, is_main))


def _as_json(content: Any) -> Any:
    """Bytes in base64, as Jupyter has it; what JSON cannot say is told as `frames.plain` has it."""
    if isinstance(content, bytes):
        return base64.b64encode(content).decode("ascii")
    try:
        json.dumps(content, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return frames.plain(content)
    return content


class _DisplayHook(DisplayHook):
    """The value of a cell's last line."""

    def write_output_prompt(self) -> None:
        """None."""

    def write_format_data(self, format_dict: dict[str, Any], md_dict: dict[str, Any] | None = None) -> None:
        """To the client."""
        self.shell.voice.result(format_dict, is_main=True)

    def log_output(self, format_dict: dict[str, Any]) -> None:
        """Not kept: it would be for as long as the kernel lives."""


class _DisplayPublisher(DisplayPublisher):
    """What a cell displays on its way."""

    def publish(
        self, data: dict[str, Any], metadata: dict[str, Any] | None = None, *_: Any, update: bool = False, **__: Any
    ) -> None:
        """To the client. What was shown before cannot be changed there."""
        if not update:
            self.shell.voice.result(data, is_main=False)

    def clear_output(self, wait: bool = False) -> None:
        """What was told was told."""


class Shell(InteractiveShell):
    """IPython's, whose words go to the client."""

    displayhook_class = Type(_DisplayHook)
    display_pub_class = Type(_DisplayPublisher)
    # A program's output goes where the kernel's goes, without a terminal.
    system = InteractiveShell.system_raw

    def __init__(self, **options: Any) -> None:
        self.voice = Voice()
        self.is_leaving = False
        super().__init__(**options)

    def _showtraceback(self, etype: type[BaseException], evalue: BaseException, stb: list[str]) -> None:
        try:
            value = str(evalue)
        except Exception:
            value = "its text cannot be had"
        self.voice.event({"type": "error", "name": etype.__name__, "value": value, "traceback": "\n".join(stb)})

    def show_usage_error(self, exc: UsageError) -> None:
        """An error like others."""
        self._showtraceback(type(exc), exc, [f"UsageError: {exc}"])

    def _tee(self, channel: str) -> contextlib.AbstractContextManager[None]:
        # Outputs are not kept either.
        return contextlib.nullcontext()

    def enable_gui(self, gui: str | None = None) -> None:
        """There is none to run."""

    def ask_exit(self) -> None:
        """`exit` in a cell: after it."""
        self.is_leaving = True


class _Facts(BaseFormatter):
    """A dictionary about an object, beside its pictures."""

    _return_type = dict


class _ChartFormatter(_Facts):
    format_type = Unicode("e2b/chart")
    print_method = ObjectName("_repr_e2b_chart_")


class _DataFormatter(_Facts):
    format_type = Unicode("e2b/data")
    print_method = ObjectName("_repr_e2b_data_")


def new_shell() -> Shell:
    """One that speaks to nobody yet."""
    # For all that looks where to draw, and for what cells start.
    os.environ.setdefault("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    config = Config()
    # History lives in memory: its file would be shared by all kernels, and is nobody's to read.
    config.HistoryManager.enabled = False
    shell = Shell.instance(config=config)
    formatter = shell.display_formatter
    for facts in (_ChartFormatter(parent=formatter), _DataFormatter(parent=formatter)):
        formatter.formatters[facts.format_type] = facts
    formatter.active_types = formatter.format_types
    # pandas says that its tables come from `pandas` itself since version 3.
    for module in ("pandas", "pandas.core.frame"):
        formatter.formatters["e2b/data"].for_type_by_name(module, "DataFrame", frames.of_frame)
    shell.set_hook("show_in_pager", page.as_hook(page.display_page))
    builtins.input = _no_input
    with contextlib.suppress(ImportError):
        from . import charts

        charts.teach()
        shell.enable_matplotlib("inline")
    return shell


def _no_input(prompt: object = "") -> str:
    raise StdinNotImplementedError("cells have no input")


class _Text(io.TextIOWrapper):
    """Tells each piece at once."""

    def __init__(self, fd: int) -> None:
        # What came in as bytes that are no text goes out as the same bytes.
        super().__init__(io.FileIO(fd, "w", closefd=False), encoding="utf-8", errors="surrogateescape", write_through=True)

    def write(self, text: str) -> int:
        """All of it."""
        length = super().write(text)
        self.flush()
        return length


class _Kernel:
    def __init__(self, shell: Shell, connection: socket.socket) -> None:
        self._shell = shell
        self._connection = connection
        self._voice = shell.voice
        self._voice.connect(connection)
        self._loop = asyncio.new_event_loop()
        self._requests: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._cut = b""
        # Where a cell's outputs belong, whatever it does to its own.
        self._outputs = [os.dup(fd) for fd in (1, 2)]
        self._sandbox: dict[str, str] = {}
        self._identity = ""
        self._is_running = False
        # Of a cell that awaits.
        self._task: asyncio.Task[Any] | None = None

    def serve(self) -> int:
        """Until nobody asks any more, or a cell leaves. How the process should end."""
        asyncio.set_event_loop(self._loop)
        signal.signal(signal.SIGINT, self._interrupted)
        self._loop.add_reader(self._connection, self._take)
        self._restore_outputs()
        self._voice.say(over=0)
        serving = self._loop.create_task(self._serve())
        while not serving.done():
            # An interrupt may hit what a cell left in the loop, which passes it on to here.
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                self._loop.run_until_complete(serving)
        return serving.result()

    def _take(self) -> None:
        chunk = self._connection.recv(_CHUNK, socket.MSG_DONTWAIT)
        *lines, self._cut = (self._cut + chunk).split(b"\n")
        for line in lines:
            self._requests.put_nowait(line)
        if not chunk:
            self._loop.remove_reader(self._connection)
            self._requests.put_nowait(None)

    async def _serve(self) -> int:
        while line := await self._requests.get():
            request = json.loads(line)
            self._voice.cell = request["cell"]
            self._wake_up_as(request["identity"])
            self._be_in(request["sandbox"])
            self._restore_outputs()
            try:
                with _environment(request["variables"]):
                    self._is_running = True
                    self._voice.say(begun=True)
                    await self._run(request["cell"], request["code"])
                self._is_running = False
            except BaseException as error:
                self._is_running = False
                # Not in the cell's own code; there IPython catches all.
                self._shell._showtraceback(type(error), error, [f"{type(error).__name__}: {error}"])
            self._voice.was_interrupted = False
            for stream in (sys.stdout, sys.stderr):
                with contextlib.suppress(Exception):
                    stream.flush()
            if self._shell.is_leaving or not self._voice.is_original():
                return 0
            self._voice.say(over=0)
        return 0

    async def _run(self, number: int, code: str) -> None:
        shell = self._shell
        shell.execution_count = number
        failed = None
        try:
            transformed = shell.transform_cell(code)
        except Exception:
            transformed, failed = code, sys.exc_info()
        if not shell.should_run_async(code, transformed_cell=transformed, preprocessing_exc_tuple=failed):
            shell.run_cell(code, store_history=True)
            return
        result = None
        coroutine = shell.run_cell_async(code, store_history=True, transformed_cell=transformed)
        self._task = self._loop.create_task(coroutine)
        try:
            result = await self._task
        finally:
            self._task = None
            shell.events.trigger("post_execute")
            shell.events.trigger("post_run_cell", result)

    def _interrupted(self, *_: Any) -> None:
        """By SIGINT. Between cells there is nothing to interrupt."""
        if not self._is_running:
            return
        if self._voice.is_speaking:
            self._voice.was_interrupted = True
        elif self._task is not None and asyncio.current_task(self._loop) is None:
            # It waits for the loop.
            self._loop.call_soon_threadsafe(self._task.cancel)
        else:
            raise KeyboardInterrupt

    def _restore_outputs(self) -> None:
        for fd, kept in zip((1, 2), self._outputs, strict=True):
            os.dup2(kept, fd)
        for name, fd in (("stdout", 1), ("stderr", 2)):
            if getattr(sys, name, None) is None or not isinstance(getattr(sys, name), _Text) or getattr(sys, name).closed:
                setattr(sys, name, _Text(fd))
                setattr(sys, f"__{name}__", getattr(sys, name))

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


def serve(shell: Shell, connection: socket.socket) -> int:
    """Until the server is gone, or a cell leaves."""
    # As Python sets these when it is not told a program.
    sys.argv = [""]
    sys.path[0] = ""
    return _Kernel(shell, connection).serve()


def main(connection: int) -> None:
    """A kernel that is no fork."""
    status = serve(new_shell(), socket.socket(fileno=connection))
    os._exit(status)
