// The team's capsules: asked for again and again, merged so that what did not change is not drawn again, and changed at once by what
// people do, which is taken back if the platform refuses.

import { getContext, setContext } from 'svelte';
import { SvelteMap } from 'svelte/reactivity';
import { api, ask, type Capsule, type Failure, type Schemas, type Status } from '$lib/api/client';
import { asFailure, everyPage } from './listing.svelte';
import { poll } from './poll.svelte';

const CHANGING: readonly Status[] = ['pending', 'starting', 'pausing', 'resuming', 'snapshotting', 'stopping'];
const PACE = { busy: 800, calm: 3000 };

export const isChanging = (status: Status) => CHANGING.includes(status);

/** What may be done to a capsule now. */
export function actionsOf(status: Status) {
	return {
		pause: status === 'running',
		resume: status === 'paused',
		copy: status === 'running' || status === 'paused',
		destroy: !['stopping', 'stopped', 'error'].includes(status)
	};
}

/** Puts a fresh list into a map: unchanged rows keep their identity, those that ended go. Pure but for the map. */
export function merge(rows: Map<string, Capsule>, fresh: Capsule[], isHeld: (id: string) => boolean) {
	const seen = new Set(fresh.map((row) => row.id));
	for (const id of [...rows.keys()]) if (!seen.has(id) && !isHeld(id)) rows.delete(id);
	for (const row of fresh) {
		const before = rows.get(row.id);
		// While somebody's change is under way, its outcome decides.
		if (isHeld(row.id)) continue;
		if (
			before?.updated_at !== row.updated_at ||
			before.last_active_at !== row.last_active_at ||
			before.status !== row.status
		)
			rows.set(row.id, row);
	}
}

export class Capsules {
	rows = new SvelteMap<string, Capsule>();
	isKnown = $state(false);
	failure = $state.raw<Failure | null>(null);

	readonly all = $derived([...this.rows.values()].sort((a, b) => (a.created_at < b.created_at ? 1 : -1)));
	readonly running = $derived(this.all.filter((row) => row.status === 'running' || row.status === 'starting').length);

	/** Ids of capsules with a change of ours under way. */
	#held = new Map<string, number>();
	#now: () => void = () => {};

	/** Keeps it up to date until the returned function is called. */
	watch(): () => void {
		const { stop, now } = poll(PACE, async () => {
			try {
				const fresh = await everyPage((cursor) =>
					api.GET('/v1/sandboxes', { params: { query: { limit: 200, cursor } } })
				);
				merge(this.rows, fresh, (id) => this.#held.has(id));
				this.failure = null;
				this.isKnown = true;
				return fresh.some((row) => isChanging(row.status));
			} catch (error) {
				this.failure = asFailure(error);
				throw error;
			}
		});
		this.#now = now;
		return stop;
	}

	async create(body: Schemas['CreateSandbox']): Promise<Capsule> {
		const row = await ask(api.POST('/v1/sandboxes', { ...once(), body }));
		this.rows.set(row.id, row);
		return row;
	}

	pause = (id: string) => this.#change(id, 'pausing', () => ask(api.POST('/v1/sandboxes/{id}/pause', at(id))));

	resume = (id: string) =>
		this.#change(id, 'resuming', () => ask(api.POST('/v1/sandboxes/{id}/resume', { ...at(id), body: {} })));

	destroy = (id: string) =>
		this.#change(id, 'stopping', async () => {
			await ask(api.DELETE('/v1/sandboxes/{id}', at(id)));
			return null;
		});

	snapshot = async (id: string, name: string) => {
		let made: Schemas['Snapshot'] | undefined;
		await this.#change(id, 'snapshotting', async () => {
			made = await ask(api.POST('/v1/snapshots', { body: { sandbox_id: id, name: name || undefined } }));
			return ask(api.GET('/v1/sandboxes/{id}', at(id)));
		});
		return made;
	};

	/** How many children run. */
	async fork(id: string, count: number): Promise<number> {
		const children = await ask(
			api.POST('/v1/sandboxes/{id}/fork', { params: { ...at(id).params, ...once().params }, body: { count } })
		);
		let made = 0;
		for (const child of children) {
			if (!('sandbox' in child)) continue;
			this.rows.set(child.sandbox.id, child.sandbox);
			made += 1;
		}
		this.#now();
		return made;
	}

	/** Shows the change at once; `null` = it is gone. */
	async #change(id: string, meanwhile: Status, act: () => Promise<Capsule | null>) {
		const before = this.rows.get(id);
		this.#held.set(id, (this.#held.get(id) ?? 0) + 1);
		if (before) this.rows.set(id, { ...before, status: meanwhile });
		try {
			const after = await act();
			if (after) this.rows.set(id, after);
			else this.rows.delete(id);
			return after;
		} catch (error) {
			if (before) this.rows.set(id, before);
			throw error;
		} finally {
			const left = (this.#held.get(id) ?? 1) - 1;
			if (left > 0) this.#held.set(id, left);
			else this.#held.delete(id);
			this.#now();
		}
	}
}

/** However often it arrives, it is done once. */
const once = () => ({ params: { header: { 'Idempotency-Key': key() } } });

const at = (id: string) => ({ params: { path: { id } } });

/** Random; the browser's own maker of UUIDs is there over TLS only. */
const key = () =>
	Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');

const KEY = Symbol('capsules');
export const provideCapsules = () => setContext(KEY, new Capsules());
export const useCapsules = () => getContext<Capsules>(KEY);
