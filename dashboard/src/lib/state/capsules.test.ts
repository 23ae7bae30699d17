import { afterEach, expect, it, vi } from 'vitest';
import type { Capsule } from '$lib/api/client';
import { actionsOf, Capsules, merge } from './capsules.svelte';

const row = (id: string, status: Capsule['status'], updated_at = '1') =>
	({ id, status, updated_at, created_at: id }) as Capsule;

afterEach(() => vi.unstubAllGlobals());

it('keeps the identity of what did not change, and lets go of what ended', () => {
	const a = row('a', 'running');
	const rows = new Map([
		['a', a],
		['b', row('b', 'running')],
		['c', row('c', 'running')]
	]);
	merge(rows, [row('a', 'running'), row('b', 'paused', '2')], () => false);
	expect(rows.get('a')).toBe(a);
	expect(rows.get('b')?.status).toBe('paused');
	expect(rows.has('c')).toBe(false);
});

it('does not touch what somebody is changing', () => {
	const rows = new Map([['a', row('a', 'pausing')]]);
	merge(rows, [row('a', 'running', '2')], (id) => id === 'a');
	expect(rows.get('a')?.status).toBe('pausing');
});

it('takes back what the platform refuses', async () => {
	const capsules = new Capsules();
	capsules.rows.set('a', row('a', 'running'));
	const refusal = { error: { code: 'invalid_state', message: 'it is busy', request_id: 'r' } };
	let answer: (response: Response) => void = () => {};
	vi.stubGlobal('fetch', () => new Promise<Response>((resolve) => (answer = resolve)));
	const paused = capsules.pause('a');
	expect(capsules.rows.get('a')?.status).toBe('pausing');
	await vi.waitFor(() => expect(answer.length).toBe(1));
	answer(new Response(JSON.stringify(refusal), { status: 409, headers: { 'content-type': 'application/json' } }));
	await expect(paused).rejects.toMatchObject({ code: 'invalid_state', message: 'It is busy.', requestId: 'r' });
	expect(capsules.rows.get('a')?.status).toBe('running');
});

it('offers what a state allows', () => {
	expect(actionsOf('running')).toEqual({ pause: true, resume: false, copy: true, destroy: true });
	expect(actionsOf('paused')).toEqual({ pause: false, resume: true, copy: true, destroy: true });
	expect(actionsOf('stopped')).toEqual({ pause: false, resume: false, copy: false, destroy: false });
});
