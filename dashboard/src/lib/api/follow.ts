// A build as it goes on: server-sent events, read by hand, since the browser's own reader cannot say for which team it asks.

import { EventReader, type Build, type StepLog } from '$lib/builds';
import { Failure, ownHeaders, refusal } from './client';

interface Follower {
	/** What follows is everything from the first step on. */
	begun(): void;
	log(log: StepLog): void;
	build(build: Build): void;
}

/** Reads what is told at an address until the build has ended, or the connection, or the signal says so. */
export async function followBuild(address: string, to: Follower, signal: AbortSignal): Promise<void> {
	const response = await fetch(address, { headers: ownHeaders(), signal }).catch(broken);
	if (!response.ok) throw await refusal(response);
	to.begun();
	const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
	const events = new EventReader();
	for (;;) {
		const { done, value } = await reader.read().catch(broken);
		if (done) return;
		for (const { event, data } of events.push(value)) {
			if (event === 'log') to.log(JSON.parse(data));
			if (event === 'build') to.build(JSON.parse(data));
		}
	}
}

function broken(error: unknown): never {
	if (error instanceof DOMException && error.name === 'AbortError') throw error;
	throw new Failure('unreachable', 'The platform does not answer.', 0);
}
