import { describe, expect, it } from 'vitest';
import { bytes, duration, list, minutes, pairs, parsePairs, percent, relative, shortId } from './format';

describe('format', () => {
	it('says sizes with as many digits as tell something', () => {
		expect([0, 1023, 1024, 1536, 512 * 1024 ** 2, 3 * 1024 ** 4].map(bytes)).toEqual([
			'0 B',
			'1023 B',
			'1 KiB',
			'1.5 KiB',
			'512 MiB',
			'3 TiB'
		]);
	});

	it('says many minutes in hours', () => {
		expect([0, 0.04, 9.96, 90, 600, 120_000].map(minutes)).toEqual([
			'0 min',
			'0 min',
			'10 min',
			'90 min',
			'10 h',
			'2,000 h'
		]);
	});

	it('says durations by their two largest parts', () => {
		expect([0, 59, 60, 90, 3600, 3661, 90_000].map(duration)).toEqual([
			'0 s',
			'59 s',
			'1 m',
			'1 m 30 s',
			'1 h',
			'1 h 1 m',
			'1 d 1 h'
		]);
	});

	it('tells the past from the future', () => {
		const now = Date.parse('2026-01-01T00:00:00Z');
		expect(relative('2026-01-01T00:00:02Z', now)).toBe('now');
		expect(relative('2025-12-31T23:59:20Z', now)).toBe('40 s ago');
		expect(relative('2026-01-01T02:00:00Z', now)).toBe('in 2 h');
	});

	it('shortens ids to what tells them apart', () => {
		expect(shortId('sb-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e')).toBe('sb-…3f4a5b6c7d8e');
		expect(shortId('base')).toBe('base');
	});

	it('reads what it writes as pairs, and says what is none', () => {
		expect(parsePairs('a=1, b=x=y\nc=')).toEqual({ a: '1', b: 'x=y', c: '' });
		expect(parsePairs(pairs({ a: '1', b: '2' }))).toEqual({ a: '1', b: '2' });
		expect(parsePairs('A=1,2\nB=3', /\n/)).toEqual({ A: '1,2', B: '3' });
		expect(parsePairs('a')).toBe('“a” is not key=value');
		expect(list(' a ,\n\n b')).toEqual(['a', 'b']);
	});

	it('gives small percentages a digit more', () => {
		expect([0, 0.14, 9.96, 10.4, 200].map(percent)).toEqual(['0 %', '0.1 %', '10 %', '10 %', '200 %']);
	});
});
