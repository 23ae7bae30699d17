"""Contexts, and who is let in."""

import os

import pytest
from conftest import LIMIT, PATIENCE, attached
from e2b import NotFoundException, SandboxException
from e2b_code_interpreter import Sandbox


@pytest.mark.guest
def test_contexts_know_nothing_of_each_other(sandbox):
    defaults = sandbox.list_code_contexts()
    assert {"python", "bash"} <= {context.language for context in defaults}
    context = sandbox.create_code_context(cwd="/tmp/of a context", **PATIENCE)
    other = sandbox.create_code_context(language="bash", cwd="/", **PATIENCE)
    assert (context.language, context.cwd, other.language, other.cwd) == ("python", "/tmp/of a context", "bash", "/")
    listed = [(one.id, one.language, one.cwd) for one in sandbox.list_code_contexts()]
    assert listed[-2:] == [(one.id, one.language, one.cwd) for one in (context, other)]

    sandbox.run_code("whose = 'default'", **LIMIT)
    assert sandbox.run_code("whose", context=context, **LIMIT).error.name == "NameError"
    assert sandbox.run_code("import os; os.getcwd()", context=context, **LIMIT).text == "/tmp/of a context"
    assert sandbox.run_code("pwd", context=other, **LIMIT).logs.stdout == ["/\n"]
    assert sandbox.run_code("whose", **LIMIT).text == "default"

    for one in (context, other):
        sandbox.remove_code_context(one)
        with pytest.raises(NotFoundException):
            sandbox.run_code("1", context=one, **LIMIT)
        with pytest.raises(NotFoundException):
            sandbox.remove_code_context(one.id)
    assert [one.id for one in sandbox.list_code_contexts()] == [one.id for one in defaults]


@pytest.mark.guest
def test_a_restart_forgets(sandbox):
    context = sandbox.create_code_context(**PATIENCE)
    assert sandbox.run_code("kept = 1\nimport os\nos.getpid()", context=context, **LIMIT).execution_count == 1
    sandbox.restart_code_context(context)
    again = sandbox.run_code("kept", context=context, **LIMIT)
    assert (again.error.name, again.execution_count) == ("NameError", 1)
    sandbox.remove_code_context(context)
    with pytest.raises(NotFoundException):
        sandbox.restart_code_context(context)


def test_a_package_that_was_replaced_is_imported_anew(sandbox):
    context = sandbox.create_code_context(**PATIENCE)

    def version() -> str:
        return sandbox.run_code("import pandas; pandas.__version__", context=context, **LIMIT).text

    before = version()
    # Where a cell's `pip install` would put another one.
    file = "import os, site; file = os.path.join(os.environ.get('PYTHONPATH') or site.getusersitepackages(), 'pandas.py')"
    assert sandbox.run_code(f"{file}\nopen(file, 'w').write('__version__ = \"of the test\"')", context=context, **LIMIT).error is None
    try:
        assert version() == before
        sandbox.restart_code_context(context)
        assert version() == "of the test"
    finally:
        sandbox.run_code(f"{file}; os.remove(file)", context=context, **LIMIT)
    sandbox.restart_code_context(context)
    assert version() == before
    sandbox.remove_code_context(context)


def test_a_kernel_that_cannot_start_is_told(sandbox):
    for language in ("python", "bash"):
        context = sandbox.create_code_context(language=language, cwd="/tmp/will go", **PATIENCE)
        sandbox.run_code("import os; os.rmdir('/tmp/will go')", **LIMIT)
        with pytest.raises(SandboxException, match="400.*does not start in /tmp/will go"):
            sandbox.restart_code_context(context)
        execution = sandbox.run_code("1", context=context, **LIMIT)
        assert execution.error.name == "CannotRun" and "does not start in /tmp/will go" in execution.error.value
        sandbox.run_code("os.mkdir('/tmp/will go')", **LIMIT)
        assert sandbox.run_code("echo = 1" if language == "python" else "echo", context=context, **LIMIT).error is None
        sandbox.remove_code_context(context)


@pytest.mark.guest
def test_what_is_not_there_is_refused(sandbox):
    for language in ("javascript", "cobol"):
        with pytest.raises(SandboxException, match=f"400.*{language} is not spoken here, but python and bash"):
            sandbox.run_code("1", language=language, **LIMIT)
    with pytest.raises(SandboxException, match="400.*cannot be made"):
        sandbox.create_code_context(cwd="/proc/nowhere", **PATIENCE)


@pytest.mark.skipif("E2B_DEBUG" not in os.environ, reason="the platform's own gate is in front")
def test_a_wrong_token_runs_nothing(sandbox):
    with pytest.raises(SandboxException, match="401"):
        attached(Sandbox, token="wrong").run_code("open('/tmp/ran', 'w')", **LIMIT)
    assert sandbox.run_code("import os; os.path.exists('/tmp/ran')", **LIMIT).text == "False"
