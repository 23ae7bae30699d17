// Who is signed in, for which team, and of which others they are. Whoever changes that calls `load` again; what belongs to a team lives
// below `Scope.svelte`, which is made anew for each. The cookie is every tab's: what one does to it, the others hear.

import { goto } from '$app/navigation';
import { page } from '$app/state';
import { api, ask, Failure, listen, shows, type Profile, type Team } from '$lib/api/client';
import { everyPage } from './listing.svelte';

const tabs = typeof window === 'undefined' ? null : new BroadcastChannel('session');

class Session {
	me = $state<Profile | null>(null);
	teams = $state<Team[]>([]);

	readonly team = $derived(this.teams.find((team) => team.id === this.me?.team_id) ?? null);
	readonly isTeamAdmin = $derived(this.team?.role === 'admin' || this.team?.role === 'owner');

	/** Asks the platform anew. */
	async load() {
		const [me, teams] = await Promise.all([
			ask(api.GET('/v1/me')),
			everyPage((cursor) => api.GET('/v1/teams', { params: { query: { limit: 200, cursor } } }))
		]);
		shows(me.team_id ?? null);
		this.me = me;
		this.teams = teams;
	}

	/** Asks the platform anew because of what somebody else did; what this page shows follows. */
	catchUp = async () => {
		if (this.me === null) return;
		try {
			await this.load();
		} catch {
			// Signed out: on the way to the door. Else the next answer tells again.
		}
	};

	/** Somebody signed in. Of whoever was signed in before, nothing is left. */
	entered() {
		this.forget();
		tabs?.postMessage('changed');
	}

	async switchTo(teamId: string) {
		await ask(api.POST('/v1/auth/switch-team', { body: { team_id: teamId } }));
		tabs?.postMessage('changed');
		await this.load();
	}

	/** After the team was left or deleted: the next one, if there is one. */
	async switchToNext() {
		await this.load();
		const next = this.teams.find((team) => team.id !== this.me?.team_id);
		if (this.team === null && next) await this.switchTo(next.id);
	}

	async signOut() {
		try {
			await ask(api.POST('/v1/auth/logout'));
		} catch (error) {
			// Ended already, elsewhere.
			if (!(error instanceof Failure && error.status === 401)) throw error;
		}
		tabs?.postMessage('changed');
		this.forget();
		await goto('/login');
	}

	forget() {
		shows(null);
		this.me = null;
		this.teams = [];
	}
}

export const session = new Session();

/** On the way to the door: whatever else is refused meanwhile says nothing new. */
let isLeaving = false;

listen({
	signedOut() {
		if (isLeaving) return;
		// A page that was never signed in just goes to the door.
		const why = session.me === null ? '' : '&why=expired';
		session.forget();
		const { pathname, search } = page.url;
		if (pathname.startsWith('/login') || pathname.startsWith('/signup')) return;
		isLeaving = true;
		void goto(`/login?next=${encodeURIComponent(pathname + search)}${why}`).finally(() => (isLeaving = false));
	},
	changed: () => void session.catchUp()
});
tabs?.addEventListener('message', () => void session.catchUp());
