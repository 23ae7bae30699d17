// A program of a year ago, with the SDK of its time. Needs real guests.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { CommandExitError, NotFoundError, Sandbox } from 'e2b'

const timeoutMs = 600_000
const BOOT_ID = '/proc/sys/kernel/random/boot_id'

async function until(look) {
  const deadline = Date.now() + 120_000
  let found
  while (!(found = await look())) {
    assert.ok(Date.now() < deadline, `waited in vain: ${look}`)
    await sleep(200)
  }
  return found
}

async function listed(query) {
  const [found, paginator] = [[], Sandbox.list({ query, limit: 1 })]
  while (paginator.hasNext) found.push(...(await paginator.nextItems()))
  return found.map((info) => info.sandboxId)
}

test('a life', async () => {
  const mark = randomBytes(8).toString('hex')
  let sandbox = await Sandbox.create({ timeoutMs, metadata: { mark, 'a b': 'c&d' }, envs: { FOR: 'everybody' } })
  try {
    assert.equal(await sandbox.isRunning(), true)
    const info = await sandbox.getInfo()
    assert.deepEqual([info.name, info.state, info.metadata], ['base', 'running', { mark, 'a b': 'c&d' }])
    assert.deepEqual(await listed({ metadata: { mark, 'a b': 'c&d' } }), [sandbox.sandboxId])
    await sandbox.setTimeout(900_000)
    assert.ok((await sandbox.getInfo()).endAt > info.endAt)

    await commands(sandbox)
    await files(sandbox)

    // What runs goes on after a pause, in the same memory.
    const boot = await sandbox.files.read(BOOT_ID)
    const sleeper = await sandbox.commands.run('sleep 100000', { background: true, timeoutMs: 0 })
    await sandbox.betaPause()
    assert.equal(await sandbox.isRunning(), false)
    assert.deepEqual(await listed({ metadata: { mark }, state: ['paused'] }), [sandbox.sandboxId])
    sandbox = await Sandbox.connect(sandbox.sandboxId, { timeoutMs })
    assert.equal(await sandbox.files.read(BOOT_ID), boot)
    assert.ok((await sandbox.commands.list()).some((process) => process.pid === sleeper.pid))
    assert.equal(await sandbox.commands.kill(sleeper.pid), true)
  } finally {
    await sandbox.kill()
  }
  assert.equal(await sandbox.isRunning(), false)
  assert.equal(await Sandbox.kill(sandbox.sandboxId), false)
  await assert.rejects(Sandbox.getInfo(sandbox.sandboxId), NotFoundError)
})

async function commands(sandbox) {
  const heard = []
  const result = await sandbox.commands.run('echo $FOR; echo oh >&2; whoami', { onStdout: (text) => void heard.push(text) })
  assert.deepEqual([result.stdout, result.stderr, result.exitCode], ['everybody\nuser\n', 'oh\n', 0])
  assert.equal(heard.join(''), result.stdout)
  assert.equal((await sandbox.commands.run('whoami; pwd', { user: 'root', cwd: '/' })).stdout, 'root\n/\n')
  await assert.rejects(sandbox.commands.run('exit 3'), CommandExitError)
  const reader = await sandbox.commands.run('head -n 1', { background: true, stdin: true })
  await sandbox.commands.sendStdin(reader.pid, 'written\n')
  assert.equal((await reader.wait()).stdout, 'written\n')

  const shown = []
  const terminal = await sandbox.pty.create({ rows: 24, cols: 80, onData: (data) => void shown.push(Buffer.from(data)) })
  await sandbox.pty.resize(terminal.pid, { rows: 30, cols: 100 })
  await sandbox.pty.sendInput(terminal.pid, Buffer.from('stty size; exit 5\n'))
  await assert.rejects(terminal.wait(), CommandExitError)
  assert.ok(Buffer.concat(shown).includes('30 100'))
}

async function files(sandbox) {
  const tree = sandbox.files
  assert.equal(await tree.makeDir('work'), true)
  assert.equal(await tree.makeDir('work'), false)
  const seen = []
  const watch = await tree.watchDir('work', (event) => void seen.push(event.name))
  await tree.write('work/numbers.txt', '1\n2\n3\n')
  await until(() => seen.includes('numbers.txt'))
  await watch.stop()
  assert.equal(await tree.read('work/numbers.txt'), '1\n2\n3\n')
  const content = randomBytes(100_000)
  await tree.write([{ path: 'work/a', data: new Blob([content]) }, { path: 'work/b', data: 'b' }])
  assert.deepEqual(Buffer.from(await tree.read('work/a', { format: 'bytes' })), content)
  assert.deepEqual((await tree.list('work')).map((entry) => entry.name).sort(), ['a', 'b', 'numbers.txt'])
  assert.equal((await tree.getInfo('work/a')).size, content.length)
  assert.equal((await tree.rename('work/b', 'work/c')).path, '/home/user/work/c')
  await tree.remove('work/c')
  assert.equal(await tree.exists('work/c'), false)
  await assert.rejects(tree.read('work/c'), NotFoundError)
}

test('a time that is over', async () => {
  const sandbox = await Sandbox.betaCreate({ timeoutMs, autoPause: true })
  try {
    await sandbox.setTimeout(1000)
    await until(async () => (await sandbox.getInfo()).state === 'paused')
    const again = await Sandbox.connect(sandbox.sandboxId, { timeoutMs })
    assert.equal((await again.commands.run('echo back')).stdout, 'back\n')
  } finally {
    await sandbox.kill()
  }
})
