import { expect, it } from 'vitest';
import { path, scale } from './chart';

const plot = { left: 0, top: 0, width: 100, height: 10 };
const window = { from: 0, to: 100, top: 10 };

it('ends axes at round numbers', () => {
	expect(scale([], 100)).toEqual({ top: 100, marks: [0, 50, 100] });
	expect(scale([{ time: 0, value: 137 }], 0)).toEqual({ top: 150, marks: [0, 100] });
	const mebi = 1024 * 1024;
	expect(scale([{ time: 0, value: 180 * mebi }], mebi)).toEqual({ top: 192 * mebi, marks: [0, 128 * mebi] });
	expect(scale([], mebi)).toEqual({ top: mebi, marks: [0, mebi / 2, mebi] });
});

it('draws what is in the window, from the base up', () => {
	const drawn = path(
		[
			{ time: -5, value: 1 },
			{ time: 0, value: 0 },
			{ time: 10, value: 10 }
		],
		window,
		plot
	);
	expect(drawn?.line).toBe('M0 10L10 0');
	expect(drawn?.area).toBe('M0 10L0 10L10 0L10 10Z');
	expect(path([], window, plot)).toBeNull();
});

it('leaves a hole where there were no figures', () => {
	const times = [0, 1, 2, 3, 60, 61];
	const drawn = path(
		times.map((time) => ({ time, value: 5 })),
		window,
		plot
	);
	expect(drawn?.line.match(/M/g)).toHaveLength(2);
});

it('knows every hole where it knows the time from point to point', () => {
	const points = [0, 10, 30, 40].map((time) => ({ time, value: 5 }));
	expect(path(points, window, plot)?.line.match(/M/g)).toHaveLength(1);
	expect(path(points, { ...window, step: 10 }, plot)?.line.match(/M/g)).toHaveLength(2);
});

it('keeps the peaks where points are more than pixels', () => {
	const points = Array.from({ length: 1000 }, (_, index) => ({ time: index / 10, value: index === 555 ? 10 : 1 }));
	const drawn = path(points, window, plot);
	expect(drawn?.line.split(/[ML]/).length).toBeLessThanOrEqual(102);
	expect(drawn?.line).toContain('55.5 0');
});
