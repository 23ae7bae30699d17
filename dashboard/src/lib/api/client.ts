// The one way to the platform: a client with the types of its OpenAPI document. The session is a cookie that no script can read; the header
// says that it is this page which asks.

import createClient, { type Middleware } from 'openapi-fetch';
import type { components, paths } from './schema';

export type Schemas = components['schemas'];
export type Capsule = Schemas['Sandbox'];
export type Status = Capsule['status'];
export type Snapshot = Schemas['Snapshot'];
export type AuditEvent = Schemas['AuditLogEntry'];
export type Team = Schemas['Team'];
export type Member = Schemas['Member'];
export type Role = Member['role'];
export type Host = Schemas['Host'];
export type Profile = Schemas['Profile'];

/** Why the platform did not do what was asked. */
export class Failure extends Error {
	constructor(
		readonly code: string,
		message: string,
		readonly status: number,
		readonly requestId?: string
	) {
		super(message);
	}

	/** The platform could not be asked at all. */
	get isUnreachable() {
		return this.status === 0;
	}
}

interface Listener {
	/** The session is over. */
	signedOut(): void;
	/** The session may not be what this page shows any more. */
	changed(): void;
}
let listener: Listener = { signedOut() {}, changed() {} };

/** Who is told what answers say of the session. */
export function listen(to: Listener) {
	listener = to;
}

let team: string | null = null;

/** Which team the page shows. The cookie is every tab's: where it acts for another team by now, the platform refuses what is asked for. */
export function shows(id: string | null) {
	team = id;
}

const PAGE = { 'X-Sandbar-Page': '1' };

/** What says of a request that it is this page's, and for whom: for requests that the typed client cannot make. */
export const ownHeaders = (): Record<string, string> => (team === null ? PAGE : { ...PAGE, 'X-Sandbar-Team': team });

const SIGN_IN: readonly string[] = ['/v1/auth/login', '/v1/auth/signup', '/v1/auth/oauth/exchange'];
/** By these a page learns and chooses for whom it acts, whatever it shows. */
const WHOEVER: readonly string[] = ['/v1/me', '/v1/teams', '/v1/auth/switch-team', '/v1/auth/logout', ...SIGN_IN];

const session: Middleware = {
	onRequest({ request, schemaPath }) {
		const isWhoever = WHOEVER.includes(schemaPath) && (request.method === 'GET' || schemaPath.startsWith('/v1/auth/'));
		if (team !== null && !isWhoever) request.headers.set('X-Sandbar-Team', team);
	}
};

/**
 * Browsers cut requests when the machine's network changes, which it does under somebody who runs the platform on their own machine with
 * every guest. What may be asked twice is asked once more.
 */
async function onceMore(request: Request): Promise<Response> {
	const again = request.method === 'GET' || request.headers.has('Idempotency-Key') ? request.clone() : null;
	try {
		return await globalThis.fetch(request);
	} catch (error) {
		if (again === null || !navigator.onLine) throw error;
		return globalThis.fetch(again);
	}
}

export const api = createClient<paths>({
	baseUrl: globalThis.location?.origin ?? 'http://localhost',
	headers: PAGE,
	credentials: 'same-origin',
	fetch: onceMore
});
api.use(session);

interface Answer<T> {
	data?: T;
	error?: unknown;
	response: Response;
}

/** The answer's data, or a Failure. */
export async function ask<T>(request: Promise<Answer<T>>): Promise<T> {
	return (await askWhole(request)).data;
}

/** The same with the response, for its headers. */
export async function askWhole<T>(request: Promise<Answer<T>>): Promise<{ data: T; response: Response }> {
	let answer: Answer<T>;
	try {
		answer = await request;
	} catch (error) {
		if (error instanceof DOMException && error.name === 'AbortError') throw error;
		throw new Failure('unreachable', 'The platform does not answer.', 0);
	}
	if (!answer.response.ok) throw failure(answer.error, answer.response);
	return { data: answer.data as T, response: answer.response };
}

/** Why it was refused, of an answer to a request that the typed client cannot make. */
export async function refusal(response: Response): Promise<Failure> {
	return failure(await response.json().catch(() => undefined), response);
}

function failure(body: unknown, response: Response): Failure {
	const said = (body as Partial<Schemas['Error']> | undefined)?.error;
	// A wrong password is no end of a session.
	if (response.status === 401 && !SIGN_IN.some((path) => response.url.endsWith(path))) listener.signedOut();
	if (said?.code === 'conflict') listener.changed();
	const id = said?.request_id ?? response.headers.get('x-request-id') ?? undefined;
	const message = said ? sentence(said.message) : `The platform answered ${response.status}.`;
	return new Failure(said?.code ?? 'unknown', message, response.status, id);
}

function sentence(text: string): string {
	const whole = text.charAt(0).toUpperCase() + text.slice(1);
	return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
