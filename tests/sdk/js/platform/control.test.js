// What the SDK asks of the control plane. Nothing here reaches into a sandbox, so that a simulated host is enough.

import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { AuthenticationError, NotFoundError, Sandbox, SandboxError, Secret } from 'e2b'

import { Platform, everything, unknown } from './platform.js'

let platform
beforeEach(() => {
  platform = new Platform()
})
afterEach(() => platform.end())

const lives = (info) => Math.round((info.endAt - info.startedAt) / 1000)

test('a sandbox is what was asked for', async () => {
  const sandbox = await platform.create({ timeoutMs: 120_000, metadata: { 'a b': 'c&d' }, envs: { X: '1' } })
  const info = await sandbox.getInfo()
  assert.deepEqual([info.sandboxId, info.name, info.state], [sandbox.sandboxId, 'base', 'running'])
  assert.equal(info.metadata['a b'], 'c&d')
  assert.ok(Math.abs(lives(info) - 120) < 5)
  assert.equal(await Sandbox.kill(sandbox.sandboxId), true)
  assert.equal(await sandbox.kill(), false)
  await assert.rejects(sandbox.getInfo(), NotFoundError)
})

test('its end moves only as asked', async () => {
  const sandbox = await platform.create({ timeoutMs: 300_000 })
  const end = async () => (await sandbox.getInfo()).endAt.getTime()
  const first = await end()
  await Sandbox.connect(sandbox.sandboxId, { timeoutMs: 30_000 })
  assert.equal(await end(), first)
  await sandbox.connect({ timeoutMs: 900_000 })
  assert.ok((await end()) > first)
  await sandbox.setTimeout(60_000)
  assert.ok((await end()) < first)
  await sandbox.setTimeout(0)
  assert.deepEqual(await platform.list(), [])
})

test('a pause and what ends it', async () => {
  const sandbox = await platform.create({ lifecycle: { onTimeout: 'pause' } })
  assert.equal(await sandbox.pause(), true)
  assert.equal(await Sandbox.pause(sandbox.sandboxId), false)
  assert.equal((await sandbox.getInfo()).state, 'paused')
  const again = await Sandbox.connect(sandbox.sandboxId)
  assert.equal(again.sandboxId, sandbox.sandboxId)
  assert.equal((await sandbox.getInfo()).state, 'running')
  await assert.rejects(Sandbox.connect(unknown), NotFoundError)
  await assert.rejects(Sandbox.pause(unknown), NotFoundError)
})

test('what is kept without memory', async () => {
  const sandbox = await platform.create({ lifecycle: { onTimeout: { action: 'pause', keepMemory: false } } })
  assert.equal((await sandbox.getInfo()).lifecycle.onTimeout, 'pause')
  for (const keepMemory of [false, true]) {
    assert.equal(await sandbox.pause({ keepMemory }), true)
    const again = await Sandbox.connect(sandbox.sandboxId, { onResume: 'reboot' })
    assert.equal(again.sandboxId, sandbox.sandboxId)
  }
})

test('lists', async () => {
  const made = []
  for (const number of ['0', '1', '2']) made.push(await platform.create({ metadata: { number, 'a b': 'c&d' } }))
  const ids = made.map((sandbox) => sandbox.sandboxId)
  await made[1].pause()
  const listed = async (query) => (await platform.list(query)).map((info) => info.sandboxId)
  assert.deepEqual(await listed(), [...ids].reverse())
  assert.deepEqual(await listed({ limit: 1 }), [...ids].reverse())
  assert.deepEqual(await listed({ limit: 2, order: 'asc' }), ids)
  assert.deepEqual(await listed({ state: ['paused'] }), [ids[1]])
  assert.deepEqual(await listed({ metadata: { 'a b': 'c&d', number: '2' } }), [ids[2]])
  assert.deepEqual(await listed({ template: 'nothing' }), [])
})

test('children', async () => {
  const sandbox = await platform.create()
  const children = await sandbox.fork({ count: 2, timeoutMs: 60_000 })
  const ids = new Set([sandbox, ...children].map((one) => one.sandboxId))
  assert.equal(ids.size, 3)
  assert.equal((await platform.list()).length, 3)
  assert.ok(Math.abs(lives(await children[0].getInfo()) - 60) < 5)
})

test('snapshots', async () => {
  const sandbox = await platform.create()
  const { snapshotId } = await sandbox.createSnapshot({ name: `kept-${platform.mark}` })
  const listed = await everything(Sandbox.listSnapshots({ sandboxId: sandbox.sandboxId }))
  assert.deepEqual(listed.map((snapshot) => snapshot.snapshotId), [snapshotId])
  const started = await platform.create({ template: snapshotId })
  assert.equal((await started.getInfo()).state, 'running')
  assert.equal(await Sandbox.deleteSnapshot(snapshotId), true)
  assert.equal(await Sandbox.deleteSnapshot(snapshotId), false)
})

test('networks', async () => {
  const sandbox = await platform.create({ network: { allowOut: ['1.1.1.1'], denyOut: ['0.0.0.0/0'] } })
  assert.deepEqual((await sandbox.getInfo()).network.allowOut, ['1.1.1.1'])
  await sandbox.updateNetwork({ denyOut: ['198.51.100.0/24'] })
  const { network } = await sandbox.getInfo()
  assert.deepEqual([network.allowOut, network.denyOut], [[], ['198.51.100.0/24']])
})

test('secrets', async () => {
  const name = `Token-${platform.mark}`
  const made = await Secret.create(name, 'hunter2', { metadata: { mark: platform.mark } })
  assert.deepEqual([made.name, made.version, made.metadata], [name.toLowerCase(), 1, { mark: platform.mark }])
  assert.deepEqual(await Secret.getInfo(name), made)
  await assert.rejects(Secret.create(name, 'again'), /409/)
  const updated = await Secret.update(made.secretId, 'hunter3')
  assert.deepEqual([updated.version, updated.metadata], [2, made.metadata])
  await Secret.create(`${name}-2`, 'v')
  const listed = (await everything(Secret.list({ limit: 1 }))).filter((secret) => secret.name.includes(platform.mark))
  assert.deepEqual(listed.map((secret) => secret.name), [`${made.name}-2`, made.name])
  for (const secret of [made.secretId, `${name}-2`]) {
    assert.equal(await Secret.destroy(secret), true)
    assert.equal(await Secret.destroy(secret), false)
  }
  assert.equal(await Secret.exists(name), false)
})

test('figures', async () => {
  const sandbox = await platform.create()
  let metrics = []
  const deadline = Date.now() + 60_000
  while ((metrics = await sandbox.getMetrics()).length === 0) {
    assert.ok(Date.now() < deadline, 'there are no figures')
    await sleep(200)
  }
  assert.ok(metrics[0].memUsed > 0 && metrics[0].memUsed <= metrics[0].memTotal)
})

test('refusals', async () => {
  await assert.rejects(platform.create({ template: 'nothing' }), SandboxError)
  await assert.rejects(Sandbox.create({ apiKey: `e2b_${'0'.repeat(40)}` }), AuthenticationError)
  assert.equal(await Sandbox.kill(unknown), false)
})
