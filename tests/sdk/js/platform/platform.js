// Sandboxes of a platform that the SDK finds by its environment, ended after each test.

import { randomBytes } from 'node:crypto'

import { Sandbox } from 'e2b'

export const unknown = randomBytes(16).toString('hex')

// All that it makes carries a mark, which children of a fork inherit.
export class Platform {
  mark = randomBytes(8).toString('hex')

  create({ template = 'base', metadata = {}, ...options } = {}) {
    return Sandbox.create(template, { timeoutMs: 600_000, metadata: { mark: this.mark, ...metadata }, ...options })
  }

  list({ metadata = {}, limit, order, ...query } = {}) {
    return everything(Sandbox.list({ query: { metadata: { mark: this.mark, ...metadata }, ...query }, limit, order }))
  }

  async end() {
    for (const info of await this.list()) await Sandbox.kill(info.sandboxId)
  }
}

// All pages.
export async function everything(paginator) {
  const found = []
  while (paginator.hasNext) found.push(...(await paginator.nextItems()))
  return found
}
