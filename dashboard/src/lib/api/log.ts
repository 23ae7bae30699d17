// A capsule's log as it comes: server-sent events, read by hand, since the browser's own reader cannot say for which team it asks.

import { EventReader } from '$lib/builds';
import type { LogEntry } from '$lib/logs';
import { Failure, ownHeaders, refusal } from './client';

interface Follower {
	begun(): void;
	/** What came at once. */
	came(entries: LogEntry[]): void;
}

/** Reads what comes, until the connection ends or the signal says so; whether the capsule has ended, and nothing will come any more. */
export async function followLog(
	id: string,
	query: URLSearchParams,
	to: Follower,
	signal: AbortSignal
): Promise<boolean> {
	const address = `/v1/sandboxes/${id}/logs/stream?${query}`;
	const response = await fetch(address, { headers: ownHeaders(), signal }).catch(broken);
	if (!response.ok) throw await refusal(response);
	to.begun();
	const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
	const events = new EventReader();
	let hasEnded = false;
	for (;;) {
		const { done, value } = await reader.read().catch(broken);
		if (done) return hasEnded;
		const told = events.push(value);
		hasEnded ||= told.some(({ event }) => event === 'end');
		const entries = told.filter(({ event }) => event === 'log').map(({ data }): LogEntry => JSON.parse(data));
		if (entries.length > 0) to.came(entries);
	}
}

function broken(error: unknown): never {
	if (error instanceof DOMException && error.name === 'AbortError') throw error;
	throw new Failure('unreachable', 'The platform does not answer.', 0);
}
