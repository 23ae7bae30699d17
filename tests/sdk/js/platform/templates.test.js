// What the SDK asks of the control plane to build templates and to tag them. Beside a simulated host, whose shell knows a few words.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { beforeEach, test } from 'node:test'

import { BuildError, Sandbox, SandboxError, Template, TemplateError } from 'e2b'

let name
beforeEach(() => {
  name = `t-${randomBytes(16).toString('hex')}`
})

const simple = () => Template().fromTemplate('base').runCmd('echo done')

// A sandbox can be made of it.
async function started(template) {
  const sandbox = await Sandbox.create(template, { timeoutMs: 60_000 })
  assert.equal(await sandbox.kill(), true)
}

test('steps find what those before left', async () => {
  const template = Template()
    .fromTemplate('base')
    .setEnvs({ A: 'x "y" $HOME' })
    .setWorkdir('app')
    .runCmd('context')
    .runCmd('context', { user: 'root' })
    .setStartCmd('sleep 1', 'echo ready')
  const logs = []
  const info = await Template.build(template, name, { onBuildLogs: (entry) => logs.push(entry) })
  const said = logs.map((entry) => entry.message)
  for (const line of ['A=x "y" /home/user', 'user=user', 'user=root', 'cwd=/home/user/app', '[3/5] RUN context']) {
    assert.ok(said.includes(line), `${line}: ${said}`)
  }
  for (const reference of [name, `${name}:default`, info.templateId]) await started(reference)
  const status = await Template.getBuildStatus(info)
  assert.deepEqual([status.status, status.buildID, status.reason], ['ready', info.buildId, undefined])
  assert.equal(await Template.exists(name), true)
  assert.equal(await Template.exists(`${name}-not`), false)
})

test('what a failed step says', async () => {
  const template = Template().fromBaseImage().runCmd('exit 3')
  await assert.rejects(
    Template.build(template, name),
    (error) => error instanceof BuildError && error.message.includes("failed to run command 'exit 3': command failed: exit status 3")
  )
  assert.equal(await Template.exists(name), false)
})

test('in the background', async () => {
  const info = await Template.buildInBackground(simple(), name)
  let status
  do status = await Template.getBuildStatus(info, { logsOffset: 0 })
  while (['waiting', 'building'].includes(status.status))
  assert.equal(status.status, 'ready')
  assert.deepEqual(
    status.logEntries.map((entry) => entry.message),
    ['[1/1] RUN echo done', 'done', `KEEP ${name}`]
  )
})

test('tags name builds', async () => {
  const first = await Template.build(simple(), `${name}:v1`)
  assert.deepEqual(first.tags, ['v1'])
  await assert.rejects(started(name), SandboxError)
  const second = await Template.build(simple(), name, { tags: ['v2', 'default'] })
  assert.equal(second.templateId, first.templateId)
  const held = async () => Object.fromEntries((await Template.getTags(name)).map(({ tag, buildId }) => [tag, buildId]))
  assert.deepEqual(await held(), { v1: first.buildId, v2: second.buildId, default: second.buildId })
  const assigned = await Template.assignTags(`${name}:v1`, ['default'])
  assert.equal(assigned.buildId, first.buildId)
  await Template.removeTags(name, ['v2'])
  assert.deepEqual(await held(), { v1: first.buildId, default: first.buildId })
  await assert.rejects(started(`${name}:v2`), SandboxError)
  await started(`${name}:v1`)
})

test('what cannot be named is refused', async () => {
  await Template.build(simple(), name)
  for (const target of [':x', `${name}:`, `${name}:none`]) await assert.rejects(Template.assignTags(target, ['a']), TemplateError)
  await assert.rejects(Template.removeTags(name, ['none']), TemplateError)
  for (const wrong of ['base', 'other/name', 'x:', ':x']) await assert.rejects(Template.build(simple(), wrong), BuildError)
})
