"""What cells say and leave behind."""

import asyncio
import base64
import os
import re

import pytest
from conftest import LIMIT, SECONDS
from e2b_code_interpreter import AsyncSandbox, Sandbox
from e2b_code_interpreter.charts import ChartType

# Of what is much: eleven bytes a time. An emulated guest takes long for less.
TIMES = 10_000_000 if "E2B_DEBUG" in os.environ else 500_000


def python(sandbox: Sandbox, code: str, **options):
    execution = sandbox.run_code(code, **LIMIT, **options)
    assert execution.error is None, execution.error.traceback
    return execution


def bash(sandbox: Sandbox, code: str, **options):
    return sandbox.run_code(code, language="bash", **LIMIT, **options)


@pytest.mark.guest
def test_a_cell_finds_what_the_one_before_left(sandbox):
    first = python(sandbox, "x = 20\ndef twice(n): return 2 * n")
    second = python(sandbox, "twice(x) + 2")
    assert (first.text, second.text) == (None, "42")
    assert second.execution_count == first.execution_count + 1
    assert python(sandbox, "'it' + \"'s\"").text == '"it\'s"'
    assert python(sandbox, "'plain'").text == "plain"
    assert python(sandbox, "import asyncio\nawait asyncio.sleep(0, 'awaited')").text == "awaited"


@pytest.mark.guest
def test_outputs_come_as_they_are_written(sandbox):
    # Each callback lets the cell go on: nothing of this passes if output is kept until the end.
    seen = []

    def on_stdout(message):
        seen.append(message.line)
        bash(sandbox, "touch /tmp/heard")

    waits = "while not os.path.exists('/tmp/heard'): time.sleep(0.05)"
    code = f"import os, sys, time\nprint('é – 日本')\n{waits}\nos.remove('/tmp/heard')\nprint('over', file=sys.stderr)"
    execution = python(sandbox, code, on_stdout=on_stdout)
    assert "".join(seen) == "é – 日本\n" == "".join(execution.logs.stdout)
    assert "".join(execution.logs.stderr) == "over\n"
    program = "".join(python(sandbox, "!echo of a program; printf %s $((6*7))").logs.stdout)
    assert program == "of a program\n42"


def test_much_output(sandbox):
    execution = python(sandbox, "for i in range(20_000): print(i)")
    assert "".join(execution.logs.stdout) == "".join(f"{number}\n" for number in range(20_000))
    much = python(sandbox, f"print('abcdefgh€' * {TIMES})")
    assert ("".join(much.logs.stdout), much.error) == ("abcdefgh€" * TIMES + "\n", None)
    much = bash(sandbox, f"head -c {TIMES} /dev/zero | tr '\\0' x")
    assert ("".join(much.logs.stdout), much.error) == ("x" * TIMES, None)


def test_output_that_is_no_text(sandbox):
    said = r"out \377\303 end"
    execution = python(sandbox, "import os, sys\nsys.stdout.buffer.write(b'\\xff\\xc3'); os.write(2, b'\\xe6\\x97'); print('end')")
    assert ("".join(execution.logs.stdout), "".join(execution.logs.stderr)) == ("\ufffd\ufffdend\n", "\ufffd")
    assert "".join(bash(sandbox, f"printf '{said}'").logs.stdout) == "out \ufffd\ufffd end"


def test_outputs_that_a_cell_has_closed(sandbox):
    for code in ("import os; os.close(1); os.close(2)", "import sys; sys.stdout.close()", "sys.stdout = None"):
        sandbox.run_code(code, **LIMIT)
        assert python(sandbox, "print('still there')").logs.stdout == ["still there\n"]
    bash(sandbox, "exec >&- 2>/dev/null")
    said = bash(sandbox, "echo still there; echo and there >&2")
    assert (said.logs.stdout, said.logs.stderr) == (["still there\n"], ["and there\n"])


def test_forks_are_no_kernels(sandbox):
    forks = "import os\nkept = os.getpid()\nif os.fork():\n    os.wait()\n"
    execution = python(sandbox, f"{forks}print('heard')\nkept == os.getpid()")
    assert ("".join(execution.logs.stdout), execution.text) == ("heard\nheard\n", "True")
    assert python(sandbox, f"{forks}else:\n    1 / 0").results == []
    pool = "import multiprocessing\nwith multiprocessing.get_context('fork').Pool(2) as pool: print(pool.map(abs, [-1, -2]))"
    assert python(sandbox, pool).logs.stdout == ["[1, 2]\n"]
    assert python(sandbox, "kept == os.getpid()").text == "True"


def test_what_goes_on_between_cells(sandbox):
    python(sandbox, "import asyncio\nready = asyncio.create_task(asyncio.sleep(0.1, 'slept'))")
    assert python(sandbox, "await ready").text == "slept"


@pytest.mark.guest
def test_errors(sandbox):
    heard = []
    execution = sandbox.run_code("1 / 0", on_error=heard.append, **LIMIT)
    assert (execution.error.name, execution.error.value) == ("ZeroDivisionError", "division by zero")
    # In colours.
    assert "1 / 0" in re.sub(r"\x1b\[[0-9;]*m", "", execution.error.traceback)
    assert heard == [execution.error]
    assert sandbox.run_code("if", **LIMIT).error.name == "SyntaxError"
    assert sandbox.run_code("input()", **LIMIT).error.name == "StdinNotImplementedError"
    for name in ("SystemExit", "KeyboardInterrupt"):
        assert sandbox.run_code(f"raise {name}('x')", **LIMIT).error.name == name
    assert sandbox.run_code("%nothing", **LIMIT).error.name == "UsageError"
    assert python(sandbox, "'and on'").text == "and on"


def test_what_is_displayed(sandbox):
    heard = []
    code = (
        "from IPython.display import HTML, JSON, Latex, Markdown, SVG, display\n"
        "display(HTML('<b>h</b>'), Markdown('*m*'), Latex('$l$'), JSON({'j': [1]}))\n"
        "display(SVG('<svg xmlns=\"http://www.w3.org/2000/svg\"/>'))\n"
        "display({'application/x-own': 'mine', 'text/plain': 'p'}, raw=True)\n"
        "7"
    )
    results = python(sandbox, code, on_result=heard.append).results
    assert heard == results
    html, markdown, latex, data, svg, own, value = results
    assert (html.html, markdown.markdown, latex.latex, data.json) == ("<b>h</b>", "*m*", "$l$", {"j": [1]})
    assert svg.svg.startswith("<svg")
    assert own.extra == {"application/x-own": "mine"}
    assert [result.is_main_result for result in results] == [False] * 6 + [True]
    assert (value.text, list(value.formats())) == ("7", ["text"])


@pytest.mark.guest
def test_a_figure(sandbox):
    code = (
        "import matplotlib.pyplot as plt\n"
        "plt.plot([1, 2, 3], [1.5, 2.5, 0.5], label='measured')\n"
        "plt.title('A line'); plt.xlabel('Time (s)'); plt.ylabel('Height')\n"
        "plt.show()"
    )
    (result,) = python(sandbox, code).results
    assert base64.b64decode(result.png).startswith(b"\x89PNG\r\n")
    chart = result.chart
    assert (chart.type, chart.title, chart.x_label, chart.x_unit, chart.y_unit) == (
        ChartType.LINE, "A line", "Time (s)", "s", None,
    )  # fmt: skip
    assert [(line.label, line.points) for line in chart.elements] == [("measured", [(1.0, 1.5), (2.0, 2.5), (3.0, 0.5)])]


@pytest.mark.guest
def test_a_table(sandbox):
    code = (
        "import pandas as pd\n"
        "pd.DataFrame({'n': [1, 2], 'f': [0.5, None], 's': ['a', None], 't': pd.to_datetime(['2024-01-02 03:04', None])})"
    )
    (result,) = python(sandbox, code).results
    assert "<table" in result.html and result.is_main_result
    assert result.data == {"n": [1, 2], "f": [0.5, None], "s": ["a", None], "t": ["2024-01-02T03:04:00", None]}


@pytest.mark.guest
def test_bash(sandbox):
    first = bash(sandbox, "cd /tmp; shared=5; alias hi='echo aliased'; echo one; echo two >&2")
    assert (first.logs.stdout, first.logs.stderr, first.error) == (["one\n"], ["two\n"], None)
    assert "".join(bash(sandbox, "pwd; echo $shared; hi; cat").logs.stdout) == "/tmp\n5\naliased\n"
    failed = bash(sandbox, "echo before; (exit 7)")
    assert (failed.logs.stdout, failed.error.name, failed.error.value) == (["before\n"], "ExitStatus", "7")
    wrong = bash(sandbox, "echo 'open")
    assert wrong.error and "unexpected EOF" in "".join(wrong.logs.stderr)
    quoted = bash(sandbox, "printf '%s|' 'a b' \"it's\" '!x' \\\n  '日本'\nfor i in 1 2; do\n  echo $i\ndone")
    assert "".join(quoted.logs.stdout) == "a b|it's|!x|日本|1\n2\n"


@pytest.mark.guest
def test_environment(sandbox):
    read = "import os\n(os.environ.get('FOR_EVERYBODY'), os.environ.get('FOR_ONE'))"
    assert python(sandbox, read).text == "('from the sandbox', None)"
    mine = {"FOR_EVERYBODY": "else", "FOR_ONE": "it's"}
    assert python(sandbox, read, envs=mine).text == "('else', \"it's\")"
    assert python(sandbox, read).text == "('from the sandbox', None)"
    # What cells change is theirs.
    python(sandbox, "os.environ['FOR_EVERYBODY'] = 'changed'")
    assert python(sandbox, read).text == "('changed', None)"
    python(sandbox, "os.environ['FOR_EVERYBODY'] = 'from the sandbox'")
    shown = 'echo "[$FOR_EVERYBODY] [$FOR_ONE]"'
    assert bash(sandbox, shown).logs.stdout == ["[from the sandbox] []\n"]
    assert bash(sandbox, shown, envs=mine).logs.stdout == ["[else] [it's]\n"]
    assert bash(sandbox, shown).logs.stdout == ["[from the sandbox] []\n"]


@pytest.mark.parametrize(
    ("language", "endless", "after"),
    [
        pytest.param("python", "import time\nwhile True: time.sleep(0.1)", "print('free')", marks=pytest.mark.guest),
        ("python", "import subprocess\nsubprocess.run(['sleep', '86397'])", "print('free')"),
        pytest.param("bash", "while :; do sleep 0.1; done", "echo free", marks=pytest.mark.guest),
        ("bash", "while :; do :; done", "echo free"),
    ],
)
async def test_who_goes_away_interrupts(async_sandbox: AsyncSandbox, language, endless, after):
    started = asyncio.Event()
    said = {"python": "print('begun', flush=True)\n", "bash": "echo begun\n"}[language]
    running = asyncio.create_task(
        async_sandbox.run_code(said + endless, language=language, on_stdout=lambda _: started.set(), timeout=0)
    )
    await asyncio.wait_for(started.wait(), SECONDS)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    # The kernel is the same and takes the next cell.
    execution = await async_sandbox.run_code(after, language=language, **LIMIT)
    assert (execution.logs.stdout, execution.error) == (["free\n"], None)


async def test_a_cell_that_does_not_stop_is_ended_with_its_kernel(async_sandbox: AsyncSandbox):
    deaf = "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\nprint('begun')\n"
    started = asyncio.Event()
    code = deaf + "while True: sum(range(10**6))"
    running = asyncio.create_task(async_sandbox.run_code(code, on_stdout=lambda _: started.set(), timeout=0))
    await asyncio.wait_for(started.wait(), SECONDS)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (await async_sandbox.run_code("'new'", **LIMIT)).text == "new"
    assert (await async_sandbox.run_code("deaf", **LIMIT)).error.name == "NameError"


def test_a_kernel_that_dies_is_told_and_replaced(sandbox):
    for language, death in (("python", "import os\nos.kill(os.getpid(), 9)"), ("bash", "kill -9 $$")):
        died = sandbox.run_code(death, language=language, **LIMIT).error
        assert died.name == "KernelDied" and "SIGKILL" in died.value
    assert python(sandbox, "1 + 1").text == "2"
    for code in ("exit", "import os; os._exit(0)"):
        assert sandbox.run_code(code, **LIMIT).error.value.startswith("it ended with exit code 0")
    # It lives, but says nothing any more.
    assert sandbox.run_code("import os; os.closerange(3, 1000)", **LIMIT).error.name == "KernelDied"
    left = bash(sandbox, "exit 3").error
    assert left.name == "KernelDied" and "exit code 3" in left.value
    assert bash(sandbox, "echo new").logs.stdout == ["new\n"]
