"""What only the sandboxes of a platform show: pauses, forks, and that those of one template are two."""

import os

import pytest
from conftest import ENVIRONMENT, LIMIT, PATIENCE
from e2b_code_interpreter import Sandbox

pytestmark = [
    pytest.mark.guest,
    pytest.mark.skipif("E2B_DEBUG" in os.environ, reason="there is no platform beside the server"),
]
KEPT = "f'{kept} of {os.getpid()}'"


def begin(sandbox: Sandbox) -> str:
    """Leaves state in the default kernels: what KEPT tells of Python's."""
    assert sandbox.run_code("kept = 'it'; import os", **LIMIT).error is None
    assert sandbox.run_code("kept=that", language="bash", **LIMIT).error is None
    return sandbox.run_code(KEPT, **LIMIT).text


def test_a_pause_keeps_what_kernels_know(sandbox):
    before = begin(sandbox)
    assert before.startswith("it of ")
    sandbox.pause(**PATIENCE)
    sandbox.connect(timeout=3600, **PATIENCE)
    assert sandbox.run_code(KEPT, **LIMIT).text == before
    assert sandbox.run_code("echo $kept", language="bash", **LIMIT).logs.stdout == ["that\n"]


def test_a_fork_goes_on_by_itself(sandbox):
    before = begin(sandbox)
    (child,) = sandbox.fork(count=1, timeout=3600, **PATIENCE)
    try:
        assert child.run_code(KEPT, **LIMIT).text == before
        child.run_code("kept = 'else'", **LIMIT)
        assert child.run_code("echo $kept", language="bash", **LIMIT).logs.stdout == ["that\n"]
        assert sandbox.run_code(KEPT, **LIMIT).text == before
    finally:
        child.kill()


def test_sandboxes_of_a_template_draw_others(sandbox):
    # Their kernels waited in the template, and were the same until their first cell.
    draw = "import random, numpy; (random.random(), numpy.random.random())"
    other = Sandbox.create(timeout=3600, envs=ENVIRONMENT, **PATIENCE)
    try:
        texts = [one.run_code(draw, **LIMIT).text for one in (sandbox, other)]
    finally:
        other.kill()
    assert None not in texts and texts[0] != texts[1]
