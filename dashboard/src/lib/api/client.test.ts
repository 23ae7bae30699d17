import { afterEach, expect, it, vi } from 'vitest';
import { api, ask, listen, shows } from './client';

const listener = { signedOut: vi.fn(), changed: vi.fn() };
listen(listener);

/** Answers every request so, and keeps what was asked. */
function answering(status: number, code: string) {
	const asked: Request[] = [];
	vi.stubGlobal('fetch', (request: Request) => {
		asked.push(request);
		const body = JSON.stringify({ error: { code, message: 'no', request_id: 'r' } });
		const response = new Response(body, { status, headers: { 'content-type': 'application/json' } });
		Object.defineProperty(response, 'url', { value: request.url });
		return Promise.resolve(response);
	});
	return asked;
}

afterEach(() => {
	vi.unstubAllGlobals();
	vi.clearAllMocks();
	shows(null);
});

it('says which team the page shows, but where it asks whom it acts for', async () => {
	const asked = answering(409, 'conflict');
	shows('team-a');
	const refused = [
		ask(api.POST('/v1/sandboxes', { body: {} })),
		ask(api.GET('/v1/me')),
		ask(api.POST('/v1/auth/switch-team', { body: { team_id: 'team-b' } })),
		ask(api.POST('/v1/teams', { body: { name: 'x' } }))
	];
	expect((await Promise.allSettled(refused)).map((one) => one.status)).toEqual(Array(4).fill('rejected'));
	expect(asked.map((one) => one.headers.get('x-sandbar-team'))).toEqual(['team-a', null, null, 'team-a']);
	expect(asked.every((one) => one.headers.get('x-sandbar-page') === '1')).toBe(true);
	expect(listener.changed).toHaveBeenCalledTimes(4);
});

it('takes a wrong password for no end of a session, and every other 401 for one', async () => {
	answering(401, 'unauthorized');
	await expect(ask(api.POST('/v1/auth/login', { body: { email: 'a', password: 'b' } }))).rejects.toThrow();
	expect(listener.signedOut).not.toHaveBeenCalled();
	await expect(ask(api.POST('/v1/auth/logout'))).rejects.toThrow();
	expect(listener.signedOut).toHaveBeenCalledOnce();
});
