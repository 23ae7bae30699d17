// All teams by name, for the platform's administrators, whose lists are of every team.

import { api, type Team } from '$lib/api/client';
import { shortId } from '$lib/format';
import { everyPage } from './listing.svelte';
import { toasts } from './toasts.svelte';

/** Whose the platform's own things are. */
export const PLATFORM = 'team-00000000-0000-0000-0000-000000000000';

export class Teams {
	all = $state.raw<Team[]>([]);
	readonly #names = $derived(new Map(this.all.map((one) => [one.id, one.name])));

	load = async () => {
		try {
			this.all = await everyPage((cursor) => api.GET('/v1/admin/teams', { params: { query: { limit: 200, cursor } } }));
		} catch (error) {
			toasts.failed(error, 'The teams are not known');
		}
	};

	/** One that was deleted has no name any more. */
	name = (id: string) => (id === PLATFORM ? 'the platform' : (this.#names.get(id) ?? shortId(id)));
}
