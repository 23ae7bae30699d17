// `sandbox.files`: contents. Reading and writing in every form that the SDK knows, metadata, signed URLs, and what goes wrong.

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'

import { AuthenticationError, FileNotFoundError, InvalidArgumentError, NotEnoughSpaceError } from 'e2b'

import { folder, sandbox, unique } from './sandbox.js'

const { files } = sandbox
const EVERY_BYTE = Uint8Array.from({ length: 256 }, (_, byte) => byte)

async function whole(stream) {
  const chunks = []
  for await (const chunk of stream) chunks.push(chunk)
  return Buffer.concat(chunks)
}

for (const text of ['', 'text', 'lines\nand\r\nmore\n', 'Ünïcødé ✓ 𝄞']) {
  test(`text comes back: ${JSON.stringify(text)}`, async () => {
    const path = `${await folder()}/file`
    await files.write(path, text)
    assert.equal(await files.read(path), text)
    assert.equal(await files.read(path, { format: 'text' }), text)
  })
}

for (const opts of [{}, { useOctetStream: true }, { gzip: true }]) {
  test(`every form of data, ${JSON.stringify(opts)}`, async () => {
    const at = await folder()
    const content = Buffer.concat(Array(1000).fill(EVERY_BYTE))
    const forms = {
      buffer: content.buffer.slice(content.byteOffset, content.byteOffset + content.length),
      blob: new Blob([content]),
      stream: new Blob([content]).stream(),
    }
    for (const [name, data] of Object.entries(forms)) {
      const info = await files.write(`${at}/${name}`, data, opts)
      assert.deepEqual(info, { name, path: `${at}/${name}`, type: 'file', metadata: undefined })
      for (const gzip of [false, true]) {
        assert.ok(content.equals(await files.read(`${at}/${name}`, { format: 'bytes', gzip })))
        const blob = await files.read(`${at}/${name}`, { format: 'blob', gzip })
        assert.ok(content.equals(Buffer.from(await blob.arrayBuffer())))
        assert.ok(content.equals(await whole(await files.read(`${at}/${name}`, { format: 'stream', gzip }))))
      }
    }
  })
}

test('ten megabytes', async () => {
  const path = `${await folder()}/file`
  const content = randomBytes(10_000_000)
  await files.write(path, new Blob([content]))
  assert.ok(content.equals(await files.read(path, { format: 'bytes' })))
  assert.equal((await sandbox.commands.run(`wc -c < ${path}`)).stdout.trim(), '10000000')
})

test('what was there is replaced', async () => {
  const at = await folder()
  await files.write(`${at}/file`, 'much longer than what comes after it')
  await files.write(`${at}/file`, 'short')
  assert.equal(await files.read(`${at}/file`), 'short')
  assert.deepEqual((await files.list(at)).map((entry) => entry.name), ['file'])
})

test('folders on the way are made for the user', async () => {
  const at = await folder()
  await files.write(`${at}/a/b/file`, 'text')
  for (const path of ['a', 'a/b']) {
    const { type, owner, group, mode } = await files.getInfo(`${at}/${path}`)
    assert.deepEqual({ type, owner, group, mode }, { type: 'dir', owner: 'user', group: 'user', mode: 0o755 })
  }
})

test('another user, and relative paths', async () => {
  const name = unique()
  assert.equal((await files.write(name, 'roots', { user: 'root' })).path, `/root/${name}`)
  assert.equal(await files.read(name, { user: 'root' }), 'roots')
  assert.equal((await files.write(name, 'mine')).path, `/home/user/${name}`)
  assert.equal(await files.read(`~/${name}`), 'mine')
})

for (const name of ['with space', 'ünïcødé ✓', 'a+b&c=d?e#f%20', "quote'"]) {
  test(`a name with everything in it: ${name}`, async () => {
    const at = await folder()
    for (const useOctetStream of [false, true]) {
      const info = await files.write(`${at}/${name}`, 'text', { useOctetStream })
      assert.equal(info.path, `${at}/${name}`)
    }
    assert.equal(await files.read(`${at}/${name}`), 'text')
    assert.deepEqual((await files.list(at)).map((entry) => entry.name), [name])
  })
}

for (const useOctetStream of [false, true]) {
  test(`several files at once, ${useOctetStream ? 'octets' : 'form'}`, async () => {
    const at = await folder()
    const entries = [0, 1, 2, 3, 4].map((n) => ({ path: `${at}/sub${n}/file${n}`, data: `text ${n}` }))
    const infos = await files.writeFiles(entries, { useOctetStream })
    assert.deepEqual(infos.map((info) => info.path), entries.map((entry) => entry.path))
    for (const { path, data } of entries) assert.equal(await files.read(path), data)
    const again = await files.write(entries, { useOctetStream })
    assert.deepEqual(again.map((info) => info.path), entries.map((entry) => entry.path))
  })
}

test('files whose size is not known before they are read', async () => {
  assert.match((await files.read('/proc/sys/kernel/random/boot_id')).trim(), /^[0-9a-f-]{36}$/)
})

test('what cannot be read or written', async () => {
  const at = await folder()
  for (const format of ['text', 'bytes', 'blob', 'stream']) {
    await assert.rejects(files.read(`${at}/missing`, { format }), (error) => {
      assert.ok(error instanceof FileNotFoundError)
      assert.match(error.message, /path '.*missing' does not exist/)
      return true
    })
  }
  await assert.rejects(files.read(at), InvalidArgumentError)
  await assert.rejects(files.write(at, 'text'), InvalidArgumentError)
  await assert.rejects(files.read('/etc/passwd', { user: 'nobody-here' }), AuthenticationError)
  for (const data of ['text', 'x'.repeat(1_000_000)]) {
    await assert.rejects(files.write(`${at}/file`, data, { user: 'nobody-here' }), AuthenticationError)
  }
})

for (const useOctetStream of [false, true]) {
  test(`a full disk, ${useOctetStream ? 'octets' : 'form'}`, async () => {
    const path = `/run/full/${unique()}`
    await assert.rejects(files.write(path, 'x'.repeat(1_000_000), { useOctetStream }), NotEnoughSpaceError)
    // What could not be written whole is not there, and takes no space.
    assert.equal(await files.exists(path), false)
    await files.write(path, 'fits')
    await files.remove(path)
  })
}

for (const useOctetStream of [false, true]) {
  test(`metadata, ${useOctetStream ? 'octets' : 'form'}`, async () => {
    const at = await folder()
    const metadata = { author: 'somebody', purpose: 'a test: with = signs' }
    const info = await files.write(`${at}/file`, 'text', { metadata, useOctetStream })
    assert.deepEqual(info, { name: 'file', path: `${at}/file`, type: 'file', metadata })
    assert.deepEqual({ ...(await files.getInfo(`${at}/file`)).metadata }, metadata)
    assert.deepEqual({ ...(await files.list(at))[0].metadata }, metadata)
    assert.deepEqual({ ...(await files.rename(`${at}/file`, `${at}/new`)).metadata }, metadata)
    await files.write(`${at}/new`, 'text', { metadata: { Other: '1' } })
    assert.deepEqual({ ...(await files.getInfo(`${at}/new`)).metadata }, { other: '1' })
    await files.write(`${at}/new`, 'text')
    assert.equal((await files.getInfo(`${at}/new`)).metadata, undefined)
  })
}

test('signed URLs', async () => {
  const at = await folder()
  const upload = await sandbox.uploadUrl(`${at}/a file`, { useSignatureExpiration: 3600 })
  const form = new FormData()
  form.append('file', new Blob(['text']))
  const answer = await fetch(upload, { method: 'POST', body: form })
  assert.equal(answer.status, 200)
  assert.deepEqual(await answer.json(), [{ name: 'a file', path: `${at}/a file`, type: 'file' }])

  const download = await sandbox.downloadUrl(`${at}/a file`)
  assert.equal(await (await fetch(download)).text(), 'text')
  assert.equal((await fetch(download, { method: 'POST', body: form })).status, 401)
  assert.equal((await fetch(`${download}&username=root`)).status, 401)

  const late = await fetch(await sandbox.downloadUrl(`${at}/a file`, { useSignatureExpiration: -10 }))
  assert.equal(late.status, 401)
  assert.equal(await late.text(), '{"code":401,"message":"signature is already expired"}')
})
