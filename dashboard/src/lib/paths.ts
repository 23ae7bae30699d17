// Paths in a capsule, and what of its files can be edited as text. Pure.

import type { Schemas } from './api/client';

export type Entry = Schemas['Entry'];

/** The folders on the way to a path, with itself, from the root on. */
export function crumbs(path: string): { name: string; path: string }[] {
	const names = path.split('/').filter(Boolean);
	const below = names.map((name, index) => ({ name, path: `/${names.slice(0, index + 1).join('/')}` }));
	return [{ name: '/', path: '/' }, ...below];
}

export const join = (folder: string, name: string) => (folder === '/' ? `/${name}` : `${folder}/${name}`);

/** What a new entry may be called. */
export const isName = (name: string) => name !== '' && name !== '.' && name !== '..' && !/[/\0]/.test(name);

/** Folders before all else, each by name, numbers in names by their value. */
export function inOrder(entries: readonly Entry[]): Entry[] {
	const compare = new Intl.Collator('en', { numeric: true }).compare;
	const rank = (entry: Entry) => (entry.type === 'directory' ? 0 : 1);
	return [...entries].sort((a, b) => rank(a) - rank(b) || compare(a.name, b.name));
}

/** No more than this is opened in a page. */
export const EDITABLE_BYTES = 1024 * 1024;

export interface Text {
	text: string;
	/** How its lines end. A page knows one end of lines only, so where a file has both it is not written back. */
	ends: '\n' | '\r\n' | 'mixed';
}

/** A file's bytes as text to edit; null where they are none. */
export function asText(bytes: Uint8Array): Text | null {
	let text: string;
	try {
		// What is skipped as a mark of the byte order would be missing when it is written back.
		text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
	} catch {
		return null;
	}
	if (text.includes('\0')) return null;
	const both = (text.match(/\r\n/g) ?? []).length;
	const [returns, feeds] = [(text.match(/\r/g) ?? []).length, (text.match(/\n/g) ?? []).length];
	if (returns === 0) return { text, ends: '\n' };
	if (both === returns && both === feeds) return { text: text.replaceAll('\r\n', '\n'), ends: '\r\n' };
	return { text, ends: 'mixed' };
}

/** And back. */
export const asBytes = ({ text, ends }: Text) =>
	new TextEncoder().encode(ends === '\r\n' ? text.replaceAll('\n', '\r\n') : text);

export const isSame = (a: Uint8Array, b: Uint8Array) => a.length === b.length && a.every((byte, at) => byte === b[at]);
