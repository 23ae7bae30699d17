import { expect, it } from 'vitest';
import { pause } from './poll.svelte';

const pace = { busy: 1000, calm: 4000 };

it('asks oftener while things change', () => {
	expect(pause(pace, { failures: 0, isBusy: true, took: 5 })).toBe(1000);
	expect(pause(pace, { failures: 0, isBusy: false, took: 5 })).toBe(4000);
});

it('asks less often the longer an answer takes, and while there is none', () => {
	expect(pause(pace, { failures: 0, isBusy: true, took: 1000 })).toBe(9000);
	expect(pause(pace, { failures: 2, isBusy: false, took: 5 })).toBe(16_000);
	expect(pause(pace, { failures: 50, isBusy: false, took: 60_000 })).toBe(30_000);
});
