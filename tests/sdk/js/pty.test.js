// `sandbox.pty`: a real shell in a real terminal.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { AuthenticationError, CommandExitError, InvalidArgumentError, NotFoundError, TimeoutError } from 'e2b'

import { Collected, gone, sandbox, terminal } from './sandbox.js'

const NO_SUCH_PID = 4_000_000

test('a shell that answers and ends', async () => {
  const { handle, out, type } = await terminal()
  // What is typed is shown, too: only the answer has the sum.
  await type('echo sum=$((40 + 2)); tty; exit 0\n')
  await out.said('sum=42\r\n')
  await out.said('/dev/pts/')
  assert.equal((await handle.wait()).exitCode, 0)
})

test('its exit code', async () => {
  const { handle, type } = await terminal()
  await type('exit 5\n')
  await assert.rejects(handle.wait(), { exitCode: 5 })
})

test('its environment', async () => {
  const { handle, out, type } = await terminal({ envs: { MINE: 'yes it is' }, cwd: '/usr' })
  await type('echo "[$TERM|$LANG|$LC_ALL|$MINE|$PWD|$(whoami)]"; exit\n')
  await out.said('[xterm-256color|C.UTF-8|C.UTF-8|yes it is|/usr|user]\r\n')
  await handle.wait()
})

test('another user', async () => {
  const { handle, out, type } = await terminal({ user: 'root' })
  await type('echo "[$(whoami) $(pwd)]"; exit\n')
  await out.said('[root /root]\r\n')
  await handle.wait()
})

test('size and resize', async () => {
  const { handle, out, type, pid } = await terminal({ rows: 30, cols: 100 })
  await type('echo size=$(stty size)\n')
  await out.said('size=30 100\r\n')
  await sandbox.pty.resize(pid, { rows: 50, cols: 132 })
  await type('echo size=$(stty size); exit\n')
  await out.said('size=50 132\r\n')
  await handle.wait()
})

test('control-C interrupts what runs', async () => {
  const { handle, out, type } = await terminal()
  // Said by what is to be interrupted: until it is in the foreground, the shell would take the interrupt.
  await type('bash -c \'echo sleep""ing; exec sleep 1000\'\n')
  await out.said('sleeping\r\n')
  await type('\x03')
  await type('echo status=$?; exit 0\n')
  await out.said('status=130\r\n')
  assert.equal((await handle.wait()).exitCode, 0)
})

test('kill', async () => {
  const { handle, pid } = await terminal()
  const end = assert.rejects(handle.wait(), { error: 'signal: killed' })
  assert.equal(await sandbox.pty.kill(pid), true)
  await end
  await gone(pid)
  assert.equal(await sandbox.pty.kill(pid), false)
})

test('it is among the commands', async () => {
  const { handle, pid } = await terminal()
  const [info] = (await sandbox.commands.list()).filter((info) => info.pid === pid)
  assert.deepEqual([info.cmd, ...info.args], ['/bin/bash', '-i', '-l'])
  const end = assert.rejects(handle.wait(), CommandExitError)
  await handle.kill()
  await end
})

test('connecting again', async () => {
  const first = await terminal()
  const out = new Collected()
  const second = await sandbox.pty.connect(first.pid, { onData: out.add })
  await first.type('echo both=$((6 * 7)); exit\n')
  await first.out.said('both=42\r\n')
  await out.said('both=42\r\n')
  assert.equal((await first.handle.wait()).exitCode, 0)
  assert.equal((await second.wait()).exitCode, 0)
})

test('who leaves does not end it', async () => {
  const { handle, type, pid } = await terminal()
  await handle.disconnect()
  const out = new Collected()
  const again = await sandbox.pty.connect(pid, { onData: out.add })
  await type('echo still=$((6 * 7)); exit\n')
  await out.said('still=42\r\n')
  await again.wait()
})

test('output that is no text arrives as it is', async () => {
  const { handle, out, type } = await terminal()
  await type("stty -echo -onlcr; printf 'in:\\xff\\x00\\xfe:out'; exit\n")
  await out.said(Buffer.from([0x69, 0x6e, 0x3a, 0xff, 0x00, 0xfe, 0x3a, 0x6f, 0x75, 0x74]))
  await handle.wait()
})

test('time over', async () => {
  const { handle, pid } = await terminal({ timeoutMs: 3000 })
  await assert.rejects(handle.wait(), TimeoutError)
  await gone(pid)
})

test('what cannot be', async () => {
  await assert.rejects(terminal({ user: 'nobody-here' }), AuthenticationError)
  await assert.rejects(terminal({ cwd: '/no/such/folder' }), InvalidArgumentError)
  await assert.rejects(sandbox.pty.sendInput(NO_SUCH_PID, Buffer.from('text')), NotFoundError)
  await assert.rejects(sandbox.pty.resize(NO_SUCH_PID, { rows: 1, cols: 1 }), NotFoundError)
  await assert.rejects(sandbox.pty.connect(NO_SUCH_PID), NotFoundError)
  assert.equal(await sandbox.pty.kill(NO_SUCH_PID), false)
})
