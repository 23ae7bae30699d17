// What the SDK for JavaScript makes of it: one sandbox, of a platform or, in debug mode, the server beside the guest agent.

import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'

import { NotFoundError, Sandbox, TimeoutError } from '@e2b/code-interpreter'

const isDebug = process.env.E2B_DEBUG === 'true'
// An emulated guest takes its time.
const patience = { requestTimeoutMs: isDebug ? 240_000 : 900_000 }
const limits = { timeoutMs: patience.requestTimeoutMs, ...patience }

let sandbox
before(async () => {
  // In debug mode as create() does with a control plane's answer.
  sandbox = isDebug
    ? new Sandbox({
        sandboxId: 'debug_sandbox_id',
        envdVersion: process.env.ENVD_VERSION,
        envdAccessToken: process.env.ACCESS_TOKEN,
        debug: true,
        ...patience,
      })
    : await Sandbox.create({ timeoutMs: 3_600_000, ...patience })
})
after(() => (isDebug ? undefined : sandbox.kill()))

const run = (code, options) => sandbox.runCode(code, { ...limits, ...options })

test('state, results and errors', async () => {
  await run('x = 40')
  const execution = await run('x + 2')
  assert.equal(execution.text, '42')
  assert.equal(execution.results[0].isMainResult, true)
  assert.ok(execution.executionCount >= 2)
  const { error } = await run('1 / 0')
  assert.deepEqual([error.name, error.value], ['ZeroDivisionError', 'division by zero'])
})

test('outputs, by callbacks and whole', async () => {
  const out = []
  const err = []
  const text = '日本é'.repeat(10_000)
  const execution = await run(`import sys\nprint('日本é' * 10_000)\nprint('e', file=sys.stderr)`, {
    onStdout: (message) => out.push(message.line),
    onStderr: (message) => err.push(message.line),
  })
  assert.deepEqual([out.join(''), err.join('')], [`${text}\n`, 'e\n'])
  assert.equal(execution.logs.stdout.join(''), `${text}\n`)
  assert.deepEqual((await run('echo "$A"', { language: 'bash', envs: { A: 'b c' } })).logs.stdout, ['b c\n'])
})

test('a figure and a table', async () => {
  const figure = await run("import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [1, 2], label='g')\nplt.show()")
  const [{ png, chart }] = figure.results
  assert.equal(Buffer.from(png, 'base64').subarray(1, 4).toString(), 'PNG')
  assert.deepEqual(chart.elements, [
    { label: 'a', group: 'g', value: 1 },
    { label: 'b', group: 'g', value: 2 },
  ])
  const [table] = (await run("import pandas\npandas.DataFrame({'n': [1, 2]})")).results
  assert.deepEqual([table.data, table.html.includes('<table')], [{ n: [1, 2] }, true])
})

test('contexts', async () => {
  const context = await sandbox.createCodeContext({ cwd: '/tmp', ...patience })
  assert.equal((await run('import os; os.getcwd()', { context })).text, '/tmp')
  assert.equal((await sandbox.listCodeContexts()).at(-1).id, context.id)
  await sandbox.restartCodeContext(context)
  assert.equal((await run('os', { context })).error.name, 'NameError')
  await sandbox.removeCodeContext(context)
  await assert.rejects(run('1', { context }), NotFoundError)
})

test('a time that is over interrupts', async () => {
  await assert.rejects(run('import time\nwhile True: time.sleep(0.1)', { timeoutMs: 1000 }), TimeoutError)
  assert.equal((await run("'free'")).text, 'free')
})
