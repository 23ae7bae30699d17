import { expect, it } from 'vitest';
import { windowOf } from './window';

it('draws what is seen and a little more, however long the list', () => {
	expect(windowOf(5000, 40, 0, 800)).toEqual({ first: 0, last: 32 });
	expect(windowOf(5000, 40, 100_000, 800)).toEqual({ first: 2488, last: 2532 });
	expect(windowOf(5000, 40, 199_200, 800)).toEqual({ first: 4968, last: 5000 });
	expect(windowOf(3, 40, 0, 800)).toEqual({ first: 0, last: 3 });
	// A list that became shorter than where one had scrolled to.
	expect(windowOf(3, 40, 100_000, 800)).toEqual({ first: 3, last: 3 });
});
