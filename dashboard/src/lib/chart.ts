// What a chart draws, from its points. Pure.

export interface Point {
	time: number;
	value: number;
}

export interface Plot {
	left: number;
	top: number;
	width: number;
	height: number;
}

/** Where the axis ends, and its marks: round numbers, at least `least` high. */
export function scale(points: readonly Point[], least: number): { top: number; marks: number[] } {
	const highest = points.reduce((most, point) => Math.max(most, point.value), least) || 1;
	// What begins at a thousand is bytes.
	const step = roundUp(highest / 2, least >= 1024);
	const top = highest > step * 1.5 ? step * 2 : step * 1.5;
	return { top, marks: [0, step, step * 2].filter((mark) => mark <= top) };
}

/** The next of 1, 2, 2.5, 5 times a power of ten; of bytes, the next power of two. */
function roundUp(value: number, isBytes: boolean): number {
	if (isBytes) return 2 ** Math.ceil(Math.log2(value));
	const power = 10 ** Math.floor(Math.log10(value));
	const digit = [1, 2, 2.5, 5, 10].find((digit) => digit * power >= value * 0.9999) ?? 10;
	return digit * power;
}

/** What of time and values a chart shows. `step`: the time from point to point, where that is known. */
export interface Window {
	from: number;
	to: number;
	top: number;
	step?: number;
}

/** The line and the area below it. More points than pixels are drawn as the highest of each pixel; a hole stays one. */
export function path(points: readonly Point[], window: Window, plot: Plot) {
	const seen = points.filter((point) => point.time >= window.from && point.time <= window.to);
	if (seen.length === 0) return null;
	const gaps = seen.slice(1).map((point, index) => point.time - seen[index]!.time);
	const usual = [...gaps].sort((a, b) => a - b)[Math.floor(gaps.length / 2)] ?? 0;
	const base = plot.top + plot.height;
	let line = '';
	let area = '';
	let last: { x: number; y: number; time: number } | null = null;
	for (const point of thin(seen, window, plot.width)) {
		const x = plot.left + ((point.time - window.from) / (window.to - window.from)) * plot.width;
		const y = base - (point.value / window.top) * plot.height;
		const longest = window.step ? window.step * 1.5 : Math.max(usual * 6, pixel(window, plot) * 3);
		const isHole = last !== null && usual > 0 && point.time - last.time > longest;
		if (last === null || isHole) {
			if (last !== null) area += `L${at(last.x)} ${at(base)}Z`;
			line += `M${at(x)} ${at(y)}`;
			area += `M${at(x)} ${at(base)}L${at(x)} ${at(y)}`;
		} else {
			line += `L${at(x)} ${at(y)}`;
			area += `L${at(x)} ${at(y)}`;
		}
		last = { x, y, time: point.time };
	}
	if (last !== null) area += `L${at(last.x)} ${at(base)}Z`;
	return { line, area };
}

const pixel = (window: { from: number; to: number }, plot: Plot) => (window.to - window.from) / plot.width;
const at = (value: number) => value.toFixed(1).replace(/\.0$/, '');

function thin(points: readonly Point[], window: { from: number; to: number }, width: number): readonly Point[] {
	if (points.length <= width) return points;
	const columns = new Map<number, Point>();
	for (const point of points) {
		const column = Math.floor(((point.time - window.from) / (window.to - window.from)) * width);
		const before = columns.get(column);
		if (!before || before.value < point.value) columns.set(column, point);
	}
	return [...columns.values()];
}
