// Who gets in, and what the sandbox object itself says.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { AuthenticationError, Sandbox } from 'e2b'

import { attach, sandbox } from './sandbox.js'

test('it runs', async () => {
  assert.equal(await sandbox.isRunning(), true)
  assert.equal(sandbox.getHost(49983), 'localhost:49983')
})

async function nothingIsServedTo(stranger) {
  for (const refused of [
    () => stranger.commands.run('true'),
    () => stranger.commands.list(),
    () => stranger.commands.kill(1),
    () => stranger.files.read('/etc/hostname'),
    () => stranger.files.write('x', 'y'),
    () => stranger.files.list('/'),
    () => stranger.files.exists('/'),
    () => stranger.files.makeDir('x'),
    () => stranger.files.remove('x'),
    () => stranger.pty.kill(1),
    () => stranger.files.watchDir('/', () => {}),
  ]) {
    await assert.rejects(refused(), AuthenticationError, String(refused))
  }
}

test('without the token nothing is served', async () => {
  // What the SDK makes of debug mode by itself.
  const created = await Sandbox.create()
  assert.equal(await created.isRunning(), true)
  await nothingIsServedTo(created)
})

test('with a wrong token nothing is served', () => nothingIsServedTo(attach('0'.repeat(32))))
