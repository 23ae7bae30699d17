// `sandbox.files.watchDir`: exactly the events of what happened, in their order.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { FileNotFoundError, InvalidArgumentError, TimeoutError } from 'e2b'

import { folder, sandbox, watch } from './sandbox.js'

const { files } = sandbox
const sh = (command, cwd) => sandbox.commands.run(command, { cwd })

test('a new file', async () => {
  const at = await folder()
  const { handle, seen } = await watch(at)
  await files.write(`${at}/file`, 'text')
  assert.deepEqual(await seen(), ['create file', 'chmod file', 'write file'])
  await handle.stop()
})

test('what a command does', async () => {
  const at = await folder()
  const { handle, seen } = await watch(at)
  await sh('echo text >file && chmod 600 file && mv file moved && rm moved && mkdir sub', at)
  assert.deepEqual(await seen(), [
    'create file',
    'write file',
    'chmod file',
    'rename file',
    'create moved',
    'remove moved',
    'create sub',
  ])
  await handle.stop()
})

test('what is below is told only when asked for', async () => {
  const at = await folder()
  await files.makeDir(`${at}/sub`)
  const flat = await watch(at)
  const deep = await watch(at, { recursive: true })
  await sh('echo text >sub/file; mkdir -p new/a && echo x >new/a/file', at)
  assert.deepEqual(await flat.seen(), ['create new'])
  await flat.handle.stop()
  const created = (items) => items.filter(({ type }) => type === 'create').map(({ name }) => name)
  const all = await deep.events.until((items) => created(items).includes('the-last-event'))
  assert.deepEqual(created(all).slice(0, -1), ['sub/file', 'new', 'new/a', 'new/a/file'])
  await deep.handle.stop()
})

test('the entry when asked for', async () => {
  const at = await folder()
  const { handle, before } = await watch(at, { includeEntry: true })
  await files.write(`${at}/file`, 'text', { metadata: { k: 'v' } })
  const { entry } = (await before()).at(-1)
  const { name, path, type, size, owner, metadata } = entry
  assert.deepEqual(
    { name, path, type, size, owner, metadata: { ...metadata } },
    { name: 'file', path: `${at}/file`, type: 'file', size: 4, owner: 'user', metadata: { k: 'v' } }
  )
  await handle.stop()
})

test('no entry of what is gone, and none unless asked for', async () => {
  const at = await folder()
  await files.write(`${at}/file`, 'text')
  const asked = await watch(at, { includeEntry: true })
  const plain = await watch(at)
  await files.remove(`${at}/file`)
  assert.deepEqual((await asked.before()).map(({ type, entry }) => [type, entry]), [['remove', undefined]])
  const [event] = await plain.events.until((items) => items.length > 0)
  assert.deepEqual([event.type, event.name, event.entry], ['remove', 'file', undefined])
  await asked.handle.stop()
  await plain.handle.stop()
})

test('a thousand events', async () => {
  const at = await folder()
  const { handle, seen } = await watch(at)
  await sh('for i in $(seq 1000); do : >f$i; done', at)
  assert.deepEqual(await seen(), Array.from({ length: 1000 }, (_, n) => `create f${n + 1}`))
  await handle.stop()
})

test('what cannot be watched', async () => {
  const at = await folder()
  await files.write(`${at}/file`, 'text')
  await assert.rejects(watch(`${at}/missing`), FileNotFoundError)
  await assert.rejects(watch(`${at}/file`), InvalidArgumentError)
})

test('the end is told', async () => {
  const at = await folder()
  const stopped = await watch(at)
  await stopped.handle.stop()
  // With an error of the SDK's own making: it calls its request off.
  await stopped.exits.until((exits) => exits.length > 0)
  const late = await watch(at, { timeoutMs: 5000 })
  await late.exits.until((exits) => exits.length > 0)
  assert.ok(late.exits.items[0] instanceof TimeoutError)
})
