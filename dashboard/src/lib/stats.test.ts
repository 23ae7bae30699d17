import { expect, it } from 'vitest';
import { column, isRange, RANGES } from './stats';

it('makes no point of what is not known, and one of nothing', () => {
	const series = {
		labels: ['2026-11-22T00:00:00Z', '2026-11-22T00:00:10Z', '2026-11-22T00:00:20Z'],
		running: [null, 0, 2],
		vcpus: [null, 0, 4],
		memory_mb: [null, 0, 3]
	};
	const ten = Date.parse('2026-11-22T00:00:10Z');
	expect(column(series, 'running')).toEqual([
		{ time: ten, value: 0 },
		{ time: ten + 10_000, value: 2 }
	]);
	expect(column(series, 'memory_mb', 1024).at(-1)?.value).toBe(3072);
});

it('knows its ranges', () => {
	expect(RANGES.every((range) => range.seconds % range.step === 0 && isRange(range.name))).toBe(true);
	expect(isRange('7d') || isRange(null)).toBe(false);
});
