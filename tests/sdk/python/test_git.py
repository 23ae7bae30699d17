"""`sandbox.git`: commands to the sandbox's own git, and what the SDK reads out of their output."""

import pytest
from e2b import CommandExitException, GitUpstreamException, InvalidArgumentException


@pytest.fixture
async def repository(sandbox, folder):
    path = f"{folder}/repository"
    await sandbox.git.init(path, initial_branch="main")
    await sandbox.git.configure_user("Some Body", "some@body.example", scope="local", path=path)
    return path


async def commit(sandbox, repository, name="file", content="text\n", message="a message: it's \"quoted\""):
    await sandbox.files.write(f"{repository}/{name}", content)
    await sandbox.git.add(repository)
    return await sandbox.git.commit(repository, message)


async def test_from_a_change_to_a_commit(sandbox, repository):
    await sandbox.files.write(f"{repository}/file", "text\n")
    status = await sandbox.git.status(repository)
    assert (status.current_branch, status.is_clean) == ("main", False)
    assert [(file.name, file.status, file.staged) for file in status.file_status] == [("file", "untracked", False)]
    await sandbox.git.add(repository, ["file"])
    assert [file.staged for file in (await sandbox.git.status(repository)).file_status] == [True]
    await sandbox.git.commit(repository, "it's \"quoted\"")
    assert (await sandbox.git.status(repository)).is_clean
    log = await sandbox.commands.run("git log --format='%s|%an|%ae'", cwd=repository)
    assert log.stdout == "it's \"quoted\"|Some Body|some@body.example\n"


async def test_branches(sandbox, repository):
    await commit(sandbox, repository)
    await sandbox.git.create_branch(repository, "other")
    assert (await sandbox.git.branches(repository)).current_branch == "other"
    await sandbox.git.checkout_branch(repository, "main")
    branches = await sandbox.git.branches(repository)
    assert (branches.current_branch, sorted(branches.branches)) == ("main", ["main", "other"])
    await sandbox.git.delete_branch(repository, "other", force=True)
    assert (await sandbox.git.branches(repository)).branches == ["main"]


async def test_undoing(sandbox, repository):
    await commit(sandbox, repository)
    await sandbox.files.write(f"{repository}/file", "changed\n")
    await sandbox.git.add(repository)
    await sandbox.git.restore(repository, ["file"], staged=True)
    assert [file.staged for file in (await sandbox.git.status(repository)).file_status] == [False]
    await sandbox.git.restore(repository, ["file"])
    assert await sandbox.files.read(f"{repository}/file") == "text\n"
    await sandbox.files.write(f"{repository}/file", "changed\n")
    await sandbox.git.reset(repository, mode="hard", target="HEAD")
    assert await sandbox.files.read(f"{repository}/file") == "text\n"


async def test_clone_push_pull(sandbox, folder, repository):
    await commit(sandbox, repository)
    bare = f"{folder}/bare.git"
    await sandbox.git.init(bare, bare=True, initial_branch="main")
    await sandbox.git.remote_add(repository, "origin", bare)
    assert await sandbox.git.remote_get(repository, "origin") == bare
    assert await sandbox.git.remote_get(repository, "no-such-remote") is None
    await sandbox.git.push(repository, remote="origin", branch="main")

    clone = f"{folder}/clone"
    await sandbox.git.clone(bare, path=clone, branch="main")
    assert await sandbox.files.read(f"{clone}/file") == "text\n"
    await commit(sandbox, repository, content="more\n", message="more")
    await sandbox.git.push(repository, remote="origin", branch="main")
    await sandbox.git.pull(clone)
    assert await sandbox.files.read(f"{clone}/file") == "more\n"
    status = await sandbox.git.status(clone)
    assert (status.upstream, status.ahead, status.behind) == ("origin/main", 0, 0)


async def test_configuration(sandbox, repository):
    await sandbox.git.set_config("some.key", "some value", scope="local", path=repository)
    assert await sandbox.git.get_config("some.key", scope="local", path=repository) == "some value"
    assert await sandbox.git.get_config("no.such-key", scope="local", path=repository) is None


async def test_what_fails(sandbox, folder, repository):
    with pytest.raises(CommandExitException):
        await sandbox.git.clone(f"{folder}/missing", path=f"{folder}/clone")
    with pytest.raises(CommandExitException):
        await sandbox.git.checkout_branch(repository, "no-such-branch")
    with pytest.raises(InvalidArgumentException):
        await sandbox.git.reset(repository, mode="no-such-mode")
    await commit(sandbox, repository)
    await sandbox.git.init(f"{folder}/bare.git", bare=True)
    await sandbox.git.remote_add(repository, "origin", f"{folder}/bare.git")
    with pytest.raises(GitUpstreamException):
        await sandbox.git.pull(repository)
