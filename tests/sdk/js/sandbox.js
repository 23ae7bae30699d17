// A sandbox, a folder for each test, and ways to wait for what a sandbox sends.

import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'

import { Sandbox } from 'e2b'

export const TOKEN = process.env.ACCESS_TOKEN
// Of everything that is waited for. A loaded machine must not fail a test.
const PATIENCE_MS = 120_000

// What `create()` makes of the control plane's answer, for a sandbox that has no control plane. In debug mode `create()` itself
// knows no token, and the agent serves nobody without one.
export function attach(token = TOKEN) {
  return new Sandbox({
    sandboxId: 'debug_sandbox_id',
    envdVersion: process.env.ENVD_VERSION,
    envdAccessToken: token,
  })
}

export const sandbox = attach()

export const unique = () => randomBytes(8).toString('hex')

// An empty folder of the default user.
export async function folder() {
  const path = `/home/user/${unique()}`
  if (!(await sandbox.files.makeDir(path))) throw new Error(`${path} is there already`)
  return path
}

// What has come so far; a test waits for what it expects.
export class Collected {
  items = []
  #waiting = []

  add = (item) => {
    this.items.push(item)
    for (const look of this.#waiting) look()
  }

  until(enough) {
    return new Promise((resolve, reject) => {
      const late = setTimeout(() => {
        reject(new Error(`what was waited for did not come; this came: ${JSON.stringify(this.items)}`))
      }, PATIENCE_MS)
      const look = () => {
        if (!enough(this.items)) return
        clearTimeout(late)
        this.#waiting = this.#waiting.filter((other) => other !== look)
        resolve(this.items)
      }
      this.#waiting.push(look)
      look()
    })
  }

  // Waits for text, whether it comes as text or as bytes.
  said(text) {
    return this.until((chunks) =>
      Buffer.concat(chunks.map((chunk) => Buffer.from(chunk))).includes(text)
    )
  }
}

// Starts a command in the background and collects its output.
export async function follow(command, opts = {}) {
  const out = new Collected()
  const err = new Collected()
  const handle = await sandbox.commands.run(command, {
    background: true,
    onStdout: out.add,
    onStderr: err.add,
    ...opts,
  })
  return { handle, out, err, pid: handle.pid }
}

// Opens a terminal.
export async function terminal(opts = {}) {
  const out = new Collected()
  const handle = await sandbox.pty.create({ rows: 24, cols: 80, onData: out.add, ...opts })
  const type = (text) => sandbox.pty.sendInput(handle.pid, Buffer.from(text))
  return { handle, out, type, pid: handle.pid }
}

// Waits until the agent no longer lists a process.
export async function gone(pid) {
  const deadline = Date.now() + PATIENCE_MS
  while ((await sandbox.commands.list()).some((info) => info.pid === pid)) {
    if (Date.now() > deadline) throw new Error(`process ${pid} does not end`)
    await sleep(0)
  }
}

const LAST = 'the-last-event'

// Watches a folder. `seen()` tells, in short, the events that come before one that it causes itself.
export async function watch(path, opts = {}) {
  const events = new Collected()
  const exits = new Collected()
  const handle = await sandbox.files.watchDir(path, events.add, { onExit: exits.add, ...opts })
  const isLast = (event) => event.name === LAST && event.type === 'create'
  const before = async () => {
    await sandbox.files.makeDir(`${path}/${LAST}`)
    const all = await events.until((items) => items.some(isLast))
    return all.slice(0, all.findIndex(isLast))
  }
  const seen = async () => (await before()).map((event) => `${event.type} ${event.name}`)
  return { handle, events, exits, before, seen }
}
