import { describe, expect, it } from 'vitest';
import { about, asText, shown, withEarlier, withNews, type LogEntry } from './logs';

const entry = (id: number, more: Partial<LogEntry> = {}): LogEntry => ({
	id: String(id),
	timestamp: '2026-11-22T04:33:12.345000Z',
	level: 'info',
	message: `line ${id}`,
	fields: { source: 'guest', pid: '7' },
	...more
});
const range = (first: number, last: number) => Array.from({ length: last - first + 1 }, (_, at) => entry(first + at));
const ids = (entries: LogEntry[]) => entries.map(({ id }) => Number(id));

describe('what a page holds of a log', () => {
	it('has each entry once, whatever comes twice', () => {
		const all = withNews(withNews([], range(1, 5)), range(4, 8));
		expect(ids(all)).toEqual([1, 2, 3, 4, 5, 6, 7, 8]);
		expect(withNews(all, range(2, 8))).toBe(all);
		expect(ids(withEarlier(range(5, 6), range(3, 5).reverse()))).toEqual([3, 4, 5, 6]);
		// As numbers, not as texts.
		expect(ids(withNews(range(9, 9), range(10, 11)))).toEqual([9, 10, 11]);
	});

	it('is bounded: the newest stays', () => {
		expect(ids(withNews(range(1, 3), range(4, 9), 4))).toEqual([6, 7, 8, 9]);
		expect(ids(withEarlier(range(7, 9), range(1, 6).reverse(), 5))).toEqual([5, 6, 7, 8, 9]);
		expect(ids(withEarlier(range(7, 9), range(1, 6).reverse(), 3))).toEqual([7, 8, 9]);
	});
});

describe('an entry', () => {
	it('says whom it is about', () => {
		expect(about(entry(1))).toBe('7');
		expect(about(entry(1, { fields: { source: 'guest', pid: '7', tag: 'web' } }))).toBe('web 7');
		expect(about(entry(1, { fields: { source: 'host', event: 'paused' } }))).toBe('host');
		expect(about(entry(1, { fields: { source: 'guest', event: 'agent' } }))).toBe('agent');
	});

	it('shows what was written without what commands a terminal', () => {
		expect(shown('\u001b[1;31mred\u001b[0m\tand \u001b]0;title\u0007plain')).toBe('red\tand plain');
		expect(shown('a\u0000b\rc')).toBe('a\ufffdb\ufffdc');
	});

	it('is a line of the file', () => {
		const text = asText([entry(1, { level: 'warn', message: 'one\u001b[0m' }), entry(2)]);
		expect(text).toBe('2026-11-22T04:33:12.345000Z WARN  [7] one\n2026-11-22T04:33:12.345000Z INFO  [7] line 2\n');
	});
});
