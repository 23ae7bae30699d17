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

type Listener = () => void;
let whenSignedOut: Listener = () => {};

/** Who is told that the session is over. */
export function onSignedOut(listener: Listener) {
	whenSignedOut = listener;
}

const session: Middleware = {
	onResponse({ response, schemaPath }) {
		// A wrong password is no end of a session.
		if (response.status === 401 && !schemaPath.startsWith('/v1/auth/')) whenSignedOut();
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
	headers: { 'X-Sandbar-Page': '1' },
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

function failure(body: unknown, response: Response): Failure {
	const said = (body as Partial<Schemas['Error']> | undefined)?.error;
	const id = said?.request_id ?? response.headers.get('x-request-id') ?? undefined;
	const message = said ? sentence(said.message) : `The platform answered ${response.status}.`;
	return new Failure(said?.code ?? 'unknown', message, response.status, id);
}

function sentence(text: string): string {
	const whole = text.charAt(0).toUpperCase() + text.slice(1);
	return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
