// Sandboxes by their names: E2B_DOMAIN alone says where the platform is, and NODE_EXTRA_CA_CERTS whom to trust.

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { connect } from 'node:http2'
import { afterEach, beforeEach, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'

import { Platform } from './platform.js'

let platform
beforeEach(() => {
  platform = new Platform()
})
afterEach(() => platform.end())

test('events, a web socket and HTTP/2 by name', async () => {
  const sandbox = await platform.create()
  await sandbox.files.write('streams.py', await readFile(new URL('../../../guest/streams.py', import.meta.url), 'utf8'))
  await sandbox.commands.run('python3 streams.py', { background: true, timeoutMs: 0 })
  const host = sandbox.getHost(9000)
  const deadline = Date.now() + 240_000
  while ((await fetch(`https://${host}/`)).status !== 204) {
    assert.ok(Date.now() < deadline, 'nobody listens')
    await sleep(100)
  }

  const events = (await fetch(`https://${host}/events`)).body.pipeThrough(new TextDecoderStream()).getReader()
  for (const number of [0, 1, 2]) {
    // Each comes before the next is asked for.
    if (number > 0) assert.equal((await fetch(`https://${host}/go`)).status, 204)
    assert.equal((await events.read()).value, `data: ${number}\n\n`)
  }
  assert.equal((await events.read()).done, true)

  const socket = new WebSocket(`wss://${host}/ws`)
  await once(socket, 'open')
  for (const sent of ['', 'hello', 'ü'.repeat(500)]) {
    const answer = once(socket, 'message')
    socket.send(sent)
    assert.equal((await answer)[0].data, sent)
  }
  const closed = once(socket, 'close')
  socket.close()
  assert.equal((await closed)[0].wasClean, true)

  const session = connect(`https://${host}`)
  const request = session.request({ ':path': '/' })
  const [headers] = await once(request, 'response')
  assert.equal(headers[':status'], 204)
  session.destroy()
})
