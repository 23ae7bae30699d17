// What the SDK does in a sandbox, through the platform's one port: real guests are needed.

import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'

import { CommandExitError, NotFoundError, Sandbox } from 'e2b'

import { Platform } from './platform.js'

let platform
beforeEach(() => {
  platform = new Platform()
})
afterEach(() => platform.end())

test('a life', async () => {
  const sandbox = await platform.create({ envs: { FOR: 'everybody' } })
  assert.equal(await sandbox.isRunning(), true)
  const out = []
  const result = await sandbox.commands.run('echo $FOR; whoami', { onStdout: (text) => out.push(text) })
  assert.equal(result.stdout, 'everybody\nuser\n')
  assert.equal(out.join(''), result.stdout)
  await assert.rejects(sandbox.commands.run('exit 3'), CommandExitError)
  await sandbox.files.write('work/a.txt', 'kept')
  assert.equal(await sandbox.files.read('work/a.txt'), 'kept')
  await assert.rejects(sandbox.files.read('nothing'), NotFoundError)

  const bootId = await sandbox.files.read('/proc/sys/kernel/random/boot_id')
  const sleeper = await sandbox.commands.run('sleep 100000', { background: true })
  assert.equal(await sandbox.pause(), true)
  assert.equal(await sandbox.isRunning(), false)
  const again = await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 600_000 })
  assert.equal(await again.files.read('/proc/sys/kernel/random/boot_id'), bootId)
  assert.equal(await again.commands.kill(sleeper.pid), true)

  const { snapshotId } = await again.createSnapshot()
  const other = await platform.create({ template: snapshotId })
  assert.equal(await other.files.read('work/a.txt'), 'kept')
  assert.equal(await Sandbox.deleteSnapshot(snapshotId), true)
  assert.equal(await again.kill(), true)
  assert.equal(await again.isRunning(), false)
})

test('a terminal', async () => {
  const sandbox = await platform.create()
  const shown = []
  const terminal = await sandbox.pty.create({ rows: 24, cols: 80, onData: (data) => shown.push(Buffer.from(data)) })
  await sandbox.pty.sendInput(terminal.pid, Buffer.from('echo $((6 * 7))-done; exit 5\n'))
  await assert.rejects(terminal.wait(), CommandExitError)
  assert.ok(Buffer.concat(shown).includes('42-done'))
})

test('a child', async () => {
  const sandbox = await platform.create()
  await sandbox.files.write('who', 'parent')
  const [child] = await sandbox.fork({ timeoutMs: 600_000 })
  await child.files.write('who', 'child')
  assert.equal(await sandbox.files.read('who'), 'parent')
})
