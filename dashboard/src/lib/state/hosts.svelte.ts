// Hosts as a page shows them: all that the caller may see, asked for again and again, and changed by what people do.

import { api, ask, type Failure, type Host } from '$lib/api/client';
import { asFailure, everyPage } from './listing.svelte';
import { poll } from './poll.svelte';

export class Hosts {
	rows = $state.raw<Host[]>([]);
	failure = $state.raw<Failure | null>(null);
	isKnown = $state(false);
	/** Those that came while one looked. */
	arrived = $state.raw<ReadonlySet<string>>(new Set());
	#now = () => {};

	/** Until the returned function is called. */
	watch(): () => void {
		const asking = poll({ busy: 2000, calm: 5000 }, async () => {
			try {
				const rows = await everyPage((cursor) => api.GET('/v1/hosts', { params: { query: { limit: 200, cursor } } }));
				this.#show(rows);
			} catch (error) {
				this.failure = asFailure(error);
				throw error;
			}
			return this.rows.some((host) => host.status !== 'online');
		});
		this.#now = asking.now;
		return asking.stop;
	}

	/** From the beginning, after a failure. */
	again = () => this.#now();

	async add(type: Host['type'], provider: string, zone: string) {
		const added = await ask(
			api.POST('/v1/hosts', { body: { type, provider: provider || null, availability_zone: zone || null } })
		);
		this.#show([added.host, ...this.rows.filter((host) => host.id !== added.host.id)]);
		return added;
	}

	async drain(id: string, isPausing: boolean) {
		this.#put(await ask(api.POST('/v1/hosts/{id}/drain', { params: { path: { id } }, body: { pause: isPausing } })));
	}

	async endDrain(id: string) {
		this.#put(await ask(api.DELETE('/v1/hosts/{id}/drain', { params: { path: { id } } })));
	}

	async delete(id: string, isForced: boolean) {
		await ask(api.DELETE('/v1/hosts/{id}', { params: { path: { id }, query: { force: isForced } } }));
		this.rows = this.rows.filter((host) => host.id !== id);
	}

	#show(rows: Host[]) {
		if (this.isKnown) {
			const before = new Set(this.rows.map((host) => host.id));
			const fresh = rows.filter((host) => !before.has(host.id)).map((host) => host.id);
			if (fresh.length > 0) this.arrived = new Set([...this.arrived, ...fresh]);
		}
		this.rows = rows;
		this.failure = null;
		this.isKnown = true;
	}

	#put(after: Host) {
		this.rows = this.rows.map((host) => (host.id === after.id ? after : host));
	}
}
