// `sandbox.git`: commands to the sandbox's own git, and what the SDK reads out of their output.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { CommandExitError, GitUpstreamError } from 'e2b'

import { folder, sandbox } from './sandbox.js'

const { files, git } = sandbox

async function repository() {
  const at = await folder()
  const path = `${at}/repository`
  await git.init(path, { initialBranch: 'main' })
  await git.configureUser('Some Body', 'some@body.example', { scope: 'local', path })
  return { at, path }
}

async function commit(path, content = 'text\n') {
  await files.write(`${path}/file`, content)
  await git.add(path)
  await git.commit(path, 'it\'s "quoted"')
}

test('from a change to a commit', async () => {
  const { path } = await repository()
  await files.write(`${path}/file`, 'text\n')
  const status = await git.status(path)
  assert.equal(status.currentBranch, 'main')
  assert.deepEqual(status.fileStatus.map(({ name, status, staged }) => [name, status, staged]), [
    ['file', 'untracked', false],
  ])
  await git.add(path, { files: ['file'] })
  await git.commit(path, 'it\'s "quoted"')
  assert.equal((await git.status(path)).isClean, true)
  const log = await sandbox.commands.run("git log --format='%s|%an|%ae'", { cwd: path })
  assert.equal(log.stdout, 'it\'s "quoted"|Some Body|some@body.example\n')
})

test('branches', async () => {
  const { path } = await repository()
  await commit(path)
  await git.createBranch(path, 'other')
  await git.checkoutBranch(path, 'main')
  const { currentBranch, branches } = await git.branches(path)
  assert.deepEqual([currentBranch, branches.sort()], ['main', ['main', 'other']])
  await git.deleteBranch(path, 'other', { force: true })
  assert.deepEqual((await git.branches(path)).branches, ['main'])
})

test('undoing', async () => {
  const { path } = await repository()
  await commit(path)
  await files.write(`${path}/file`, 'changed\n')
  await git.restore(path, { paths: ['file'] })
  assert.equal(await files.read(`${path}/file`), 'text\n')
  await files.write(`${path}/file`, 'changed\n')
  await git.reset(path, { mode: 'hard', target: 'HEAD' })
  assert.equal(await files.read(`${path}/file`), 'text\n')
})

test('clone, push, pull', async () => {
  const { at, path } = await repository()
  await commit(path)
  const bare = `${at}/bare.git`
  await git.init(bare, { bare: true, initialBranch: 'main' })
  await git.remoteAdd(path, 'origin', bare)
  assert.equal(await git.remoteGet(path, 'origin'), bare)
  await git.push(path, { remote: 'origin', branch: 'main' })
  await git.clone(bare, { path: `${at}/clone`, branch: 'main' })
  await commit(path, 'more\n')
  await git.push(path, { remote: 'origin', branch: 'main' })
  await git.pull(`${at}/clone`)
  assert.equal(await files.read(`${at}/clone/file`), 'more\n')
})

test('configuration', async () => {
  const { path } = await repository()
  await git.setConfig('some.key', 'some value', { scope: 'local', path })
  assert.equal(await git.getConfig('some.key', { scope: 'local', path }), 'some value')
  assert.equal(await git.getConfig('no.such-key', { scope: 'local', path }), undefined)
})

test('what fails', async () => {
  const { at, path } = await repository()
  await assert.rejects(git.clone(`${at}/missing`, { path: `${at}/clone` }), CommandExitError)
  await assert.rejects(git.checkoutBranch(path, 'no-such-branch'), CommandExitError)
  await commit(path)
  await git.init(`${at}/bare.git`, { bare: true })
  await git.remoteAdd(path, 'origin', `${at}/bare.git`)
  await assert.rejects(git.pull(path), GitUpstreamError)
})
