// `sandbox.files`: the tree. list, exists, getInfo, makeDir, rename, remove.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { FileNotFoundError, InvalidArgumentError } from 'e2b'

import { folder, sandbox } from './sandbox.js'

const { files } = sandbox

async function tree() {
  const at = await folder()
  await sandbox.commands.run('mkdir -p a/b/c && touch top a/one a/b/two a/b/c/three', { cwd: at })
  return at
}

test('what is known of a file', async () => {
  const at = await folder()
  await files.write(`${at}/file`, '12345')
  const { modifiedTime, ...info } = await files.getInfo(`${at}/file`)
  assert.ok(Math.abs(Date.now() - modifiedTime.getTime()) < 3_600_000)
  for (const absent of ['symlinkTarget', 'metadata']) {
    assert.equal(info[absent], undefined)
    delete info[absent]
  }
  assert.deepEqual(info, {
    name: 'file',
    path: `${at}/file`,
    type: 'file',
    size: 5,
    mode: 0o644,
    permissions: '-rw-r--r--',
    owner: 'user',
    group: 'user',
  })
})

test('links', async () => {
  const at = await folder()
  await sandbox.commands.run('mkdir sub; echo 12345 >file; ln -s file link; ln -s sub dir-link; ln -s gone broken', {
    cwd: at,
  })
  const link = await files.getInfo(`${at}/link`)
  assert.deepEqual([link.type, link.symlinkTarget], ['file', `${at}/file`])
  const folderLink = await files.getInfo(`${at}/dir-link`)
  assert.deepEqual([folderLink.type, folderLink.symlinkTarget], ['dir', `${at}/sub`])
  assert.equal((await files.getInfo(`${at}/broken`)).type, 'symlink')
})

test('exists', async () => {
  const at = await folder()
  await files.write(`${at}/file`, 'text')
  assert.equal(await files.exists(`${at}/file`), true)
  assert.equal(await files.exists(at), true)
  assert.equal(await files.exists(`${at}/missing`), false)
})

for (const [depth, expected] of [
  [undefined, ['a', 'top']],
  [1, ['a', 'top']],
  [2, ['a', 'a/b', 'a/one', 'top']],
  [10, ['a', 'a/b', 'a/b/c', 'a/b/c/three', 'a/b/two', 'a/one', 'top']],
]) {
  test(`list to depth ${depth}`, async () => {
    const at = await tree()
    const entries = await files.list(at, { depth })
    assert.deepEqual(entries.map((entry) => entry.path), expected.map((path) => `${at}/${path}`))
    for (const entry of entries) assert.deepEqual(entry, await files.getInfo(entry.path))
  })
}

test('what cannot be listed or told', async () => {
  const at = await tree()
  await assert.rejects(files.list(at, { depth: 0 }), InvalidArgumentError)
  await assert.rejects(files.list(`${at}/missing`), FileNotFoundError)
  await assert.rejects(files.list(`${at}/top`), InvalidArgumentError)
  await assert.rejects(files.getInfo(`${at}/missing`), FileNotFoundError)
})

test('makeDir', async () => {
  const at = await folder()
  assert.equal(await files.makeDir(`${at}/a/b`), true)
  assert.equal(await files.makeDir(`${at}/a/b`), false)
  const { type, owner, mode } = await files.getInfo(`${at}/a`)
  assert.deepEqual({ type, owner, mode }, { type: 'dir', owner: 'user', mode: 0o755 })
  await files.write(`${at}/file`, 'text')
  await assert.rejects(files.makeDir(`${at}/file`), InvalidArgumentError)
})

test('rename', async () => {
  const at = await tree()
  const info = await files.rename(`${at}/a`, `${at}/new/place`)
  assert.deepEqual([info.name, info.path, info.type], ['place', `${at}/new/place`, 'dir'])
  assert.equal(await files.exists(`${at}/new/place/b/c/three`), true)
  assert.equal(await files.exists(`${at}/a`), false)
  await assert.rejects(files.rename(`${at}/missing`, `${at}/other`), FileNotFoundError)
})

test('remove', async () => {
  const at = await tree()
  await files.remove(`${at}/top`)
  await files.remove(`${at}/a`)
  await files.remove(`${at}/missing`)
  assert.deepEqual(await files.list(at), [])
})
