"""Contexts, and who is let in."""

import os

import pytest
from conftest import attached
from e2b import NotFoundException, SandboxException
from e2b_code_interpreter import Sandbox

LIMIT = {"timeout": 240.0}


def test_contexts_know_nothing_of_each_other(sandbox):
    defaults = sandbox.list_code_contexts()
    assert {"python", "bash"} <= {context.language for context in defaults}
    context = sandbox.create_code_context(cwd="/tmp/of a context")
    other = sandbox.create_code_context(language="bash", cwd="/")
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


def test_a_restart_forgets(sandbox):
    context = sandbox.create_code_context()
    assert sandbox.run_code("kept = 1\nimport os\nos.getpid()", context=context, **LIMIT).execution_count == 1
    sandbox.restart_code_context(context)
    again = sandbox.run_code("kept", context=context, **LIMIT)
    assert (again.error.name, again.execution_count) == ("NameError", 1)
    sandbox.remove_code_context(context)
    with pytest.raises(NotFoundException):
        sandbox.restart_code_context(context)


@pytest.mark.skipif("E2B_DEBUG" not in os.environ, reason="packages are root's in a sandbox")
def test_a_package_that_was_replaced_is_imported_anew(sandbox):
    def parent(context=None) -> str:
        return sandbox.run_code("import os; os.getppid()", context=context, **LIMIT).text

    old, other = parent(), sandbox.create_code_context()
    assert parent(other) == old
    touched = sandbox.run_code("import pandas; os.utime(pandas.__file__)", **LIMIT)
    assert touched.error is None
    sandbox.restart_code_context(other)
    assert parent(other) != old
    # Kernels of before go on.
    assert parent() == old
    sandbox.remove_code_context(other)


def test_what_is_not_there_is_refused(sandbox):
    for language in ("javascript", "cobol"):
        with pytest.raises(SandboxException, match=f"400.*{language} is not spoken here, but python and bash"):
            sandbox.run_code("1", language=language, **LIMIT)
    with pytest.raises(SandboxException, match="400.*cannot be made"):
        sandbox.create_code_context(cwd="/proc/nowhere")


@pytest.mark.skipif("E2B_DEBUG" not in os.environ, reason="the platform's own gate is in front")
def test_a_wrong_token_runs_nothing(sandbox):
    with pytest.raises(SandboxException, match="401"):
        attached(Sandbox, token="wrong").run_code("open('/tmp/ran', 'w')", **LIMIT)
    assert sandbox.run_code("import os; os.path.exists('/tmp/ran')", **LIMIT).text == "False"
