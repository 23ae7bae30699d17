"""What the SDK asks of the control plane to build templates and to tag them. Beside a simulated host, whose shell knows a few words."""

import uuid

import pytest
from conftest import settled
from e2b import (
    AsyncTemplate,
    BuildException,
    Sandbox,
    SandboxException,
    Template,
    TemplateBuildStatus,
    TemplateException,
)
from threads import InThreads


class Builder:
    """One flavour of the SDK's builder, and a name that nobody else has."""

    def __init__(self, flavour: type) -> None:
        self.new = flavour
        self.kind = InThreads(flavour) if flavour is Template else flavour
        self.name = f"t-{uuid.uuid4().hex}"

    def simple(self):
        return self.new().from_template("base").run_cmd("echo done")


@pytest.fixture(params=[Template, AsyncTemplate], ids=["sync", "async"])
def builder(request: pytest.FixtureRequest) -> Builder:
    return Builder(request.param)


async def started(template: str) -> None:
    """A sandbox can be made of it."""
    sandbox = await InThreads(Sandbox).create(template, timeout=60)
    assert await sandbox.kill()


async def test_steps_find_what_those_before_left(builder):
    template = (
        builder.new()
        .from_template("base")
        .set_envs({"A": "x \"y\" $HOME", "B": "'$A'"})
        .set_workdir("app")
        .run_cmd("context")
        .set_user("root")
        .run_cmd("context", user="user")
        .run_cmd("echo --one\n[\"two\"] \\")
        .set_start_cmd("sleep 1", "echo ready")
    )
    logs = []
    info = await builder.kind.build(template, builder.name, cpu_count=2, memory_mb=1024, on_build_logs=logs.append)
    assert (info.name, info.tags) == (builder.name, ["default"])
    said = [entry.message for entry in logs]
    for line in ['A=x "y" /home/user', "B='x \"y\" /home/user'", "user=user", "cwd=/home/user/app", "[3/7] RUN context", '--one ["two"] \\']:
        assert line in said, (line, said)
    assert any("1 vCPUs" in line for line in said), "it has its base's size, and that is told"
    for reference in [builder.name, f"{builder.name}:default", info.template_id]:
        await started(reference)
    status = await builder.kind.get_build_status(info)
    assert (status.status, status.build_id, status.reason) == (TemplateBuildStatus.READY, info.build_id, None)
    assert await builder.kind.exists(builder.name)
    assert not await builder.kind.exists(f"{builder.name}-not")


async def test_what_a_failed_step_says(builder):
    template = builder.new().from_base_image().run_cmd("warn why").run_cmd("exit 3").run_cmd("echo never")
    logs = []
    with pytest.raises(BuildException, match="failed to run command 'exit 3': command failed: exit status 3"):
        await builder.kind.build(template, builder.name, on_build_logs=logs.append)
    assert ("why", "warn") in [(entry.message, entry.level) for entry in logs]
    assert not await builder.kind.exists(builder.name)


async def test_in_the_background(builder):
    info = await builder.kind.build_in_background(builder.simple(), builder.name)
    seen, status = [], TemplateBuildStatus.WAITING
    while status in (TemplateBuildStatus.WAITING, TemplateBuildStatus.BUILDING) or seen[-1] != []:
        answer = await builder.kind.get_build_status(info, logs_offset=sum(map(len, seen)))
        status, seen = answer.status, [*seen, answer.log_entries]
    lines = [entry.message for page in seen for entry in page]
    assert lines == ["[1/1] RUN echo done", "done", f"KEEP {builder.name}"]
    failing = builder.new().from_template("base").run_cmd("true").set_workdir("/x")
    info = await builder.kind.build_in_background(failing, builder.name)
    while (answer := await builder.kind.get_build_status(info)).status not in (TemplateBuildStatus.ERROR,):
        assert answer.status != TemplateBuildStatus.READY
    assert (answer.reason.step, "exit status 127" in answer.reason.message) == ("1", True)
    # What there was before goes on.
    await started(builder.name)


async def test_tags_name_builds(builder):
    name = builder.name
    first = await builder.kind.build(builder.simple(), f"{name}:v1")
    assert first.tags == ["v1"]
    assert await builder.kind.exists(name)
    await started(f"{name}:v1")
    with pytest.raises(SandboxException, match="there is no template"):
        await started(name)
    second = await builder.kind.build(builder.simple(), name, tags=["v2", "default"])
    assert second.template_id == first.template_id
    tags = {tag.tag: tag.build_id for tag in await builder.kind.get_tags(name)}
    assert tags == {"v1": first.build_id, "v2": second.build_id, "default": second.build_id}
    assigned = await builder.kind.assign_tags(f"{name}:v1", ["default", "stable"])
    assert (assigned.build_id, sorted(assigned.tags)) == (first.build_id, ["default", "stable"])
    tags = {tag.tag: tag.build_id for tag in await builder.kind.get_tags(first.template_id)}
    assert tags == {"v1": first.build_id, "v2": second.build_id, "default": first.build_id, "stable": first.build_id}
    # A template is built on the one that the tag means.
    await builder.kind.build(builder.new().from_template(f"{name}:v2").run_cmd("echo on"), name)
    await builder.kind.remove_tags(name, ["v2", "stable"])
    for gone in ["v2", "stable"]:
        with pytest.raises(SandboxException, match="there is no template"):
            await started(f"{name}:{gone}")
    await started(f"{name}:v1")
    await builder.kind.remove_tags(name, "v1")
    assert [tag.tag for tag in await builder.kind.get_tags(name)] == ["default"]
    await builder.kind.remove_tags(name, "default")
    assert not await builder.kind.exists(name)


async def test_what_cannot_be_named_is_refused(builder):
    await builder.kind.build(builder.simple(), builder.name)
    for call in [
        lambda: builder.kind.assign_tags(":x", ["a"]),
        lambda: builder.kind.assign_tags(f"{builder.name}:", ["a"]),
        lambda: builder.kind.assign_tags(f"{builder.name}:none", ["a"]),
        lambda: builder.kind.assign_tags("base", ["mine"]),
        lambda: builder.kind.remove_tags(builder.name, ["none"]),
        lambda: builder.kind.get_tags(f"{builder.name}-not"),
    ]:
        with pytest.raises(TemplateException):
            await settled(call())
    for name in ["base", "other/name", "a b", "x:", ":x", f"{builder.name}:UP"]:
        with pytest.raises(BuildException):
            await builder.kind.build(builder.simple(), name)
    for template in [builder.new().from_template("nothing"), builder.new().from_image("NO/image name")]:
        with pytest.raises(BuildException):
            await builder.kind.build(template.run_cmd("echo"), builder.name)


async def test_files_are_brought_once(builder, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text(builder.name)
    template = builder.new(file_context_path=tmp_path).from_template("base").copy("site", "in/", user="root", mode=0o750)
    for said in ["Uploaded 'site'", "Skipping upload of 'site', already cached"]:
        logs = []
        await builder.kind.build(template, builder.name, on_build_logs=logs.append)
        messages = [entry.message for entry in logs]
        assert said in messages
        assert any("unpack --into /home/user/in/ --owner root --mode 750 -- site" in line for line in messages), messages
