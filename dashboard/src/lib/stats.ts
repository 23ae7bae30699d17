// The team's figures over a range: columns from the platform, points for charts. Pure.

import type { Schemas } from '$lib/api/client';
import type { Point } from './chart';

export type Stats = Schemas['SandboxStats'];
export type Range = Stats['range'];

/** How long each range is, how far its points lie apart, and how often it is of use to ask again. */
export const RANGES: readonly { name: Range; seconds: number; step: number; every: number }[] = [
	{ name: '5m', seconds: 300, step: 10, every: 5000 },
	{ name: '1h', seconds: 3600, step: 30, every: 10_000 },
	{ name: '6h', seconds: 21_600, step: 180, every: 30_000 },
	{ name: '24h', seconds: 86_400, step: 720, every: 30_000 },
	{ name: '30d', seconds: 30 * 86_400, step: 21_600, every: 30_000 }
];

export const isRange = (text: string | null): text is Range => RANGES.some((range) => range.name === text);

/** The points of one column. What is not known has none. */
export function column(series: Stats['series'], name: 'running' | 'vcpus' | 'memory_mb', unit = 1): Point[] {
	return series.labels.flatMap((label, index) => {
		const value = series[name][index];
		return value == null ? [] : [{ time: Date.parse(label), value: value * unit }];
	});
}
