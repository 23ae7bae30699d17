import { expect, it } from 'vitest';
import { asBytes, asText, crumbs, inOrder, isName, isSame, join, type Entry } from './paths';

const bytes = (text: string) => new TextEncoder().encode(text);

it('knows the way to a folder', () => {
	expect(crumbs('/')).toEqual([{ name: '/', path: '/' }]);
	expect(crumbs('/home/user').map((one) => one.path)).toEqual(['/', '/home', '/home/user']);
	expect([join('/', 'etc'), join('/home', 'a b')]).toEqual(['/etc', '/home/a b']);
	expect(['a', '..', '', 'a/b', '.profile'].map(isName)).toEqual([true, false, false, false, true]);
});

it('has folders first, and numbers by their value', () => {
	const entry = (name: string, type: Entry['type']) => ({ name, type }) as Entry;
	const sorted = inOrder([entry('b10', 'file'), entry('b9', 'file'), entry('z', 'directory'), entry('a', 'symlink')]);
	expect(sorted.map((one) => one.name)).toEqual(['z', 'a', 'b9', 'b10']);
});

it('gives back what it was given, byte by byte, or does not take it for text', () => {
	for (const text of ['', 'a\nb\n', 'a\r\nb\r\n', '\ufeffmarked', 'für']) {
		const read = asText(bytes(text))!;
		expect(read.text).not.toContain('\r');
		expect(isSame(asBytes(read), bytes(text)), JSON.stringify(text)).toBe(true);
	}
	for (const text of ['a\r\nb\n', 'a\rb', '\r\r\n']) expect(asText(bytes(text))!.ends).toBe('mixed');
	expect(asText(Uint8Array.of(0xff, 0xfe))).toBeNull();
	expect(asText(bytes('a\0b'))).toBeNull();
});
