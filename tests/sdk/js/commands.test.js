// `sandbox.commands` without input: run, callbacks, exit codes, environment, users, time-outs, amounts.

import assert from 'node:assert/strict'
import { test } from 'node:test'

import { AuthenticationError, CommandExitError, InvalidArgumentError, TimeoutError } from 'e2b'

import { Collected, follow, folder, gone, sandbox } from './sandbox.js'

const run = (command, opts) => sandbox.commands.run(command, opts)

test('output and exit code', async () => {
  const result = await run('echo out; echo err >&2')
  assert.equal(result.stdout, 'out\n')
  assert.equal(result.stderr, 'err\n')
  assert.equal(result.exitCode, 0)
  assert.equal(result.error, undefined)
})

test('output is told as it comes', async () => {
  const at = await folder()
  const { handle, out, err } = await follow(
    `echo first; echo other >&2; while [ ! -e ${at}/go ]; do sleep 0.05; done; echo second`
  )
  await out.said('first')
  await err.said('other')
  assert.equal(handle.exitCode, undefined)
  await sandbox.files.write(`${at}/go`, '')
  assert.equal((await handle.wait()).stdout, 'first\nsecond\n')
  assert.equal(handle.exitCode, 0)
})

for (const code of [1, 2, 127, 255]) {
  test(`exit code ${code} throws with everything that is known`, async () => {
    await assert.rejects(run(`echo out; echo err >&2; exit ${code}`), (error) => {
      assert.ok(error instanceof CommandExitError)
      assert.equal(error.exitCode, code)
      assert.equal(error.stdout, 'out\n')
      assert.equal(error.stderr, 'err\n')
      assert.equal(error.error, `exit status ${code}`)
      return true
    })
  })
}

test('a command that is not there', async () => {
  await assert.rejects(run('no-such-command'), { exitCode: 127, stderr: /not found/ })
})

test('a process that ends itself by a signal', async () => {
  await assert.rejects(run('kill -SEGV $$'), { exitCode: -1, error: 'signal: segmentation fault' })
})

test('a command starts in the home of the default user', async () => {
  const { stdout } = await run('whoami; pwd; echo "$HOME $USER $LOGNAME"; id -Gn; umask')
  assert.deepEqual(stdout.trim().split('\n'), [
    'user',
    '/home/user',
    '/home/user user user',
    'user crew',
    '0022',
  ])
})

test('another user', async () => {
  const { stdout } = await run('whoami; pwd; echo "$HOME"; id -Gn', { user: 'root' })
  assert.deepEqual(stdout.trim().split('\n'), ['root', '/root', '/root', 'root'])
})

test('a user that does not exist', async () => {
  await assert.rejects(run('true', { user: 'nobody-here' }), (error) => {
    assert.ok(error instanceof AuthenticationError)
    assert.match(error.message, /invalid username: 'nobody-here'/)
    return true
  })
})

test('environment', async () => {
  const envs = { PLAIN: '1', SPACES: 'a b  c', QUOTES: '\'"$HOME`', UMLAUT: 'Ünïcødé ✓', EMPTY: '' }
  const { stdout } = await run('printf "%s|" "$PLAIN" "$SPACES" "$QUOTES" "$UMLAUT" "${EMPTY-unset}"', { envs })
  assert.deepEqual(stdout.split('|').slice(0, -1), Object.values(envs))
})

test("the sandbox's own variables", async () => {
  const command = 'echo "$FOR_EVERYBODY"'
  assert.equal((await run(command)).stdout, 'from the sandbox\n')
  assert.equal((await run(command, { envs: { FOR_EVERYBODY: 'mine' } })).stdout, 'mine\n')
})

test('working folder', async () => {
  const at = await folder()
  assert.equal((await run('pwd', { cwd: '/usr' })).stdout, '/usr\n')
  assert.equal((await run('pwd', { cwd: at.split('/').at(-1) })).stdout, `${at}\n`)
  await assert.rejects(run('true', { cwd: '/no/such/folder' }), (error) => {
    assert.ok(error instanceof InvalidArgumentError)
    assert.match(error.message, /cwd '\/no\/such\/folder' does not exist/)
    return true
  })
})

test('time over', async () => {
  const at = await folder()
  await assert.rejects(run(`echo $$ > ${at}/pid; exec sleep 1000`, { timeoutMs: 15000 }), TimeoutError)
  const pid = Number(await sandbox.files.read(`${at}/pid`))
  // The time belongs to the command: it does not outlive it.
  await gone(pid)
  await assert.rejects(run(`kill -0 ${pid}`, { user: 'root' }), CommandExitError)
})

test('no limit of time', async () => {
  assert.equal((await run('echo done', { timeoutMs: 0 })).stdout, 'done\n')
})

test('much output', async () => {
  const { stdout, stderr } = await run("head -c 10000000 /dev/zero | tr '\\0' x; echo; echo end >&2")
  assert.equal(stdout.length, 10_000_001)
  assert.match(stdout, /^x+\n$/)
  assert.equal(stderr, 'end\n')
})

test('characters survive where the output is cut', async () => {
  const { stdout } = await run("yes '✓' | head -n 200000 | tr -d '\\n'")
  assert.ok(stdout === '✓'.repeat(200_000))
})

test('a character that comes in two parts', async () => {
  const at = await folder()
  const { handle, out } = await follow(
    `printf 'a\\xe2\\x9c'; while [ ! -e ${at}/go ]; do sleep 0.05; done; printf '\\x93b'`
  )
  await out.said('a')
  await sandbox.files.write(`${at}/go`, '')
  assert.equal((await handle.wait()).stdout, 'a✓b')
})

test('bytes that are no text', async () => {
  assert.equal((await run("printf 'a\\xff\\xfeb\\0c'")).stdout, 'a\ufffd\ufffdb\0c')
})

test('twenty at once', async () => {
  const numbers = Array.from({ length: 20 }, (_, number) => number)
  const results = await Promise.all(numbers.map((number) => run(`echo ${number}; sleep 0.2; echo ${number} >&2`)))
  assert.deepEqual(results.map((result) => result.stdout), numbers.map((number) => `${number}\n`))
})

test('a request that is called off', async () => {
  const calledOff = new AbortController()
  const out = new Collected()
  const running = run('echo up; exec sleep 1000', { onStdout: out.add, signal: calledOff.signal })
  const over = assert.rejects(running)
  await out.said('up')
  calledOff.abort()
  await over
})
