// Commands in the background: list, kill, connect, disconnect, standard input.

import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'

import { CommandExitError, NotFoundError, SandboxError, TimeoutError } from 'e2b'

import { Collected, follow, folder, gone, sandbox } from './sandbox.js'

const NO_SUCH_PID = 4_000_000
const { commands } = sandbox

test('a handle comes before the end', async () => {
  const { handle, out } = await follow('echo up; exec sleep 1000')
  await out.said('up')
  assert.ok(handle.pid > 0)
  const end = assert.rejects(handle.wait(), { exitCode: -1, error: 'signal: killed' })
  assert.equal(await handle.kill(), true)
  await end
})

test('list tells what runs', async () => {
  const at = await folder()
  const { handle, pid } = await follow('exec sleep 1000', { envs: { A: '1' }, cwd: at })
  const [info, ...others] = (await commands.list()).filter((info) => info.pid === pid)
  assert.deepEqual(others, [])
  assert.equal(info.cmd, '/bin/bash')
  assert.deepEqual(info.args, ['-l', '-c', 'exec sleep 1000'])
  assert.deepEqual({ ...info.envs }, { A: '1' })
  assert.equal(info.cwd, at)
  assert.equal(info.tag, undefined)
  const end = assert.rejects(handle.wait(), CommandExitError)
  await handle.kill()
  await end
})

test('kill by pid', async () => {
  const { handle, pid } = await follow('exec sleep 1000')
  const end = assert.rejects(handle.wait(), CommandExitError)
  assert.equal(await commands.kill(pid), true)
  await end
  await gone(pid)
  assert.equal(await commands.kill(pid), false)
  assert.equal(await commands.kill(NO_SUCH_PID), false)
})

test('who leaves does not end it', async () => {
  const { handle, pid } = await follow('read line; echo got $line', { stdin: true })
  await handle.disconnect()
  assert.ok((await commands.list()).some((info) => info.pid === pid))
  const out = new Collected()
  const again = await commands.connect(pid, { onStdout: out.add })
  assert.equal(again.pid, pid)
  await commands.sendStdin(pid, 'hello\n')
  await out.said('got hello\n')
  assert.equal((await again.wait()).exitCode, 0)
})

test('several followers see the same', async () => {
  const { handle, pid } = await follow('read line; echo got $line; exit 3', { stdin: true })
  const others = await Promise.all([1, 2, 3].map(() => commands.connect(pid)))
  const ends = [handle, ...others].map((follower) =>
    assert.rejects(follower.wait(), { exitCode: 3, stdout: 'got x\n' })
  )
  await handle.sendStdin('x\n')
  await Promise.all(ends)
})

test('an exit can be learnt afterwards', async () => {
  const { handle, pid } = await follow('exit 7')
  await assert.rejects(handle.wait(), { exitCode: 7 })
  await assert.rejects((await commands.connect(pid)).wait(), { exitCode: 7 })
})

test("a connection's time is not the command's", async () => {
  const { handle, pid } = await follow('exec sleep 1000', { timeoutMs: 0 })
  // On a busy machine the time may be over before the connection is there: that is told the same way.
  const brief = async () => (await commands.connect(pid, { timeoutMs: 5000 })).wait()
  await assert.rejects(brief(), TimeoutError)
  assert.ok((await commands.list()).some((info) => info.pid === pid))
  const end = assert.rejects(handle.wait(), CommandExitError)
  await handle.kill()
  await end
})

test('nothing to connect to', async () => {
  await assert.rejects(commands.connect(NO_SUCH_PID), (error) => {
    assert.ok(error instanceof NotFoundError)
    assert.match(error.message, /process with pid 4000000 not found/)
    return true
  })
})

test('input line by line', async () => {
  const { handle, out, pid } = await follow('while read -r line; do echo "<$line>"; done; echo over', { stdin: true })
  await handle.sendStdin('one\n')
  await out.said('<one>\n')
  await commands.sendStdin(pid, Buffer.from('two ü\n'))
  await out.said('<two ü>\n')
  await handle.closeStdin()
  assert.equal((await handle.wait()).stdout, '<one>\n<two ü>\nover\n')
})

test('closing by pid', async () => {
  const { handle, pid } = await follow('cat', { stdin: true })
  await commands.sendStdin(pid, 'text')
  await commands.closeStdin(pid)
  assert.equal((await handle.wait()).stdout, 'text')
})

test('without input there is none', async () => {
  assert.equal((await commands.run('cat; echo end')).stdout, 'end\n')
})

test('input for one that takes none, and for nobody', async () => {
  const { handle } = await follow('exec sleep 1000')
  await assert.rejects(handle.sendStdin('text'), SandboxError)
  const end = assert.rejects(handle.wait(), CommandExitError)
  await handle.kill()
  await end
  await assert.rejects(commands.sendStdin(NO_SUCH_PID, 'text'), NotFoundError)
  await assert.rejects(commands.closeStdin(NO_SUCH_PID), NotFoundError)
})

test('much input', async () => {
  const { handle } = await follow('sha256sum', { stdin: true })
  const block = Buffer.alloc(512 * 1024, Uint8Array.from({ length: 256 }, (_, byte) => byte))
  const hash = createHash('sha256')
  for (let sent = 0; sent < 8; sent += 1) {
    await handle.sendStdin(block)
    hash.update(block)
  }
  await handle.closeStdin()
  assert.equal((await handle.wait()).stdout.split(' ')[0], hash.digest('hex'))
})

test('twenty in the background at once', async () => {
  const numbers = Array.from({ length: 20 }, (_, number) => number)
  const all = await Promise.all(numbers.map(() => follow('read line; echo $line', { stdin: true })))
  assert.equal(new Set(all.map(({ pid }) => pid)).size, 20)
  await Promise.all(all.map(({ handle }, number) => handle.sendStdin(`${number}\n`)))
  const results = await Promise.all(all.map(({ handle }) => handle.wait()))
  assert.deepEqual(results.map((result) => result.stdout), numbers.map((number) => `${number}\n`))
})
