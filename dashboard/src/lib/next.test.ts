import { expect, it } from 'vitest';
import { nextPage } from './next';

it('goes nowhere but to a page of ours', () => {
	expect(nextPage('/dashboard/keys?x=1')).toBe('/dashboard/keys?x=1');
	for (const other of [null, 'https://evil.example', '//evil.example', '/dashboards', 'javascript:alert(1)', '/v1/me'])
		expect(nextPage(other)).toBe('/dashboard/capsules/list');
});
