// The pages that there are, for the menu, the palette and the keyboard.

import type { IconName } from '$lib/ui/Icon.svelte';

export interface Place {
	name: string;
	href: string;
	/** Addresses that belong to it begin like this. */
	under: string;
	icon: IconName;
	group: 'team' | 'platform' | 'own';
	/** Pressed after `g`. */
	key: string;
}

const place = (name: string, path: string, icon: IconName, group: Place['group'], key: string): Place => ({
	name,
	href: `/dashboard/${path}`,
	under: `/dashboard/${path.split('/list')[0]}`,
	icon,
	group,
	key
});

const ALL: readonly Place[] = [
	place('Capsules', 'capsules/list', 'capsule', 'team', 'c'),
	place('Stats', 'capsules/stats', 'chart', 'team', 'x'),
	place('Templates & snapshots', 'snapshots', 'snapshot', 'team', 's'),
	place('Builds', 'builds', 'build', 'team', 'b'),
	place('Hosts', 'byoc', 'host', 'team', 'h'),
	place('API keys', 'keys', 'key', 'team', 'k'),
	place('Secrets', 'secrets', 'shield', 'team', 'e'),
	place('Usage', 'usage', 'meter', 'team', 'u'),
	place('Team', 'team', 'team', 'team', 't'),
	place('Audit log', 'audit', 'log', 'team', 'l'),
	place('All hosts', 'admin/hosts', 'host', 'platform', 'H'),
	place('All capsules', 'admin/capsules', 'capsule', 'platform', 'C'),
	place('Platform templates', 'admin/templates', 'snapshot', 'platform', 'S'),
	place('All builds', 'admin/builds', 'build', 'platform', 'B'),
	place('Teams', 'admin/teams', 'team', 'platform', 'T'),
	place('Users', 'admin/users', 'user', 'platform', 'U'),
	place('All events', 'admin/audit', 'log', 'platform', 'L'),
	place('First steps', 'welcome', 'steps', 'own', 'w'),
	place('Account', 'account', 'user', 'own', 'a')
];

/** The one that an address belongs to: the most exact, since pages lie below others. */
export const placeOf = (places: readonly Place[], pathname: string): Place | undefined =>
	places
		.filter((place) => pathname.startsWith(place.under))
		.sort((a, b) => b.under.length - a.under.length)
		.at(0);

/** Those of somebody who administers the platform or does not, in a team that brings its own hosts or does not. */
export const places = (isAdmin: boolean, isByoc: boolean) =>
	ALL.filter((place) => (isAdmin || place.group !== 'platform') && (isByoc || place.under !== '/dashboard/byoc'));
