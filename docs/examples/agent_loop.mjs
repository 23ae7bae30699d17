// What an agent does with a sandbox, as it is written for E2B's cloud. Where the sandboxes are is for the environment to say:
//
//     E2B_API_KEY=... node agent_loop.mjs                                                             # in E2B's cloud
//     E2B_DOMAIN=sbx.example.com:8443 E2B_API_KEY=... NODE_EXTRA_CA_CERTS=ca.pem node agent_loop.mjs    # in yours
//
// Needs Node 20 and `npm install e2b`. The package that it installs in the sandbox may be a wheel of this machine: agent_loop.mjs FILE.whl

import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { basename } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

import { Sandbox } from 'e2b'

const timeoutMs = 900_000

const CODE = `
import humanize, time
for step in range(1, 4):
    print("step", step, flush=True)
    time.sleep(0.2)
numbers = [int(line) for line in open("numbers.txt")]
with open("report.txt", "w") as report:
    print("the sum is", humanize.intcomma(sum(numbers)), file=report)
`

async function install(sandbox, wanted) {
  let source = wanted
  if (wanted.endsWith('.whl')) {
    source = `/tmp/${basename(wanted)}`
    await sandbox.files.write(source, new Blob([await readFile(wanted)]))
  }
  await sandbox.commands.run(`pip install --quiet ${source}`, { timeoutMs: 300_000 })
}

// What a server answers that has been started just now: until it listens, its port is closed (502).
async function fetchSoon(url) {
  for (let attempt = 0; attempt < 600; attempt++) {
    const response = await fetch(url)
    if (response.status !== 502) return response.text()
    await sleep(200)
  }
  throw new Error(`nobody listens at ${url}`)
}

let sandbox = await Sandbox.create({ timeoutMs, metadata: { 'made-by': 'agent_loop.mjs' } })
try {
  console.log('sandbox', sandbox.sandboxId)
  await install(sandbox, process.argv[2] ?? 'humanize')

  // A file in, code that somebody's model wrote, its output as it comes, a file out.
  await sandbox.files.write('numbers.txt', '1000000\n1000001\n1000002\n')
  await sandbox.files.write('task.py', CODE)
  await sandbox.commands.run('python3 task.py', { onStdout: (text) => process.stdout.write(text) })
  const report = await sandbox.files.read('report.txt')
  process.stdout.write(report)
  assert.equal(report, 'the sum is 3,000,003\n')

  // A port, opened to the world, for longer than a command's usual minute.
  await sandbox.commands.run('python3 -m http.server 8000', { background: true, timeoutMs: 0 })
  const url = `https://${sandbox.getHost(8000)}/report.txt`
  assert.equal(await fetchSoon(url), report)
  console.log('served at', url)

  // Days may pass here. What ran goes on, the server too.
  await sandbox.pause()
  sandbox = await Sandbox.connect(sandbox.sandboxId, { timeoutMs })
  assert.equal(await fetchSoon(url), report)
  console.log('paused, and back')

  // All of it, kept: a start for as many others as there are ideas to try.
  const { snapshotId } = await sandbox.createSnapshot()
  try {
    const other = await Sandbox.create(snapshotId, { timeoutMs })
    try {
      await other.files.write('report.txt', 'another report\n')
      assert.equal(await fetchSoon(`https://${other.getHost(8000)}/report.txt`), 'another report\n')
      assert.equal(await sandbox.files.read('report.txt'), report)
    } finally {
      await other.kill()
    }
  } finally {
    await Sandbox.deleteSnapshot(snapshotId)
  }
  console.log('kept, and begun again from there')
} finally {
  await sandbox.kill()
}
assert.equal(await sandbox.isRunning(), false)
console.log('done')
