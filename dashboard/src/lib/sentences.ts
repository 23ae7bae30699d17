// The audit trail in words. Pure.

import type { AuditEvent } from './api/client';
import { count, shortId } from './format';

/** What an event tells besides its action, where it tells it. */
interface Told {
	/** What it was done to: its name, else its id. */
	name: string;
	text(field: string): string | undefined;
	value(field: string): unknown;
	status: string;
}

type Said = string | ((told: Told) => string);

/** What is done to each kind of thing. Of an action that is not here, its own words are shown. */
const SAID: Record<string, { title: string; noun: string; actions: Record<string, Said> }> = {
	sandbox: {
		title: 'Capsules',
		noun: 'capsule',
		actions: {
			create: ({ name, text }) => `created capsule ${name}${text('template') ? ` of ${text('template')}` : ''}`,
			pause: 'paused capsule',
			auto_pause: ({ name }) => `paused capsule ${name}, which was idle`,
			resume: 'resumed capsule',
			fork: 'forked capsule',
			update_network: ({ name }) => `changed the network rules of capsule ${name}`,
			destroy: ({ name, text }) => `destroyed capsule ${name}${text('reason') ? `: ${text('reason')}` : ''}`
		}
	},
	snapshot: {
		title: 'Snapshots',
		noun: 'snapshot',
		actions: {
			create: 'created snapshot',
			delete: 'deleted snapshot'
		}
	},
	template: {
		title: 'Templates',
		noun: 'template',
		actions: {
			build: ({ name, text, status }) => {
				// The event is told of whoever asked for it, whoever cancelled it.
				if (status === 'warning') return `asked for template ${name}, whose build was cancelled`;
				return `built template ${name}${text('base_template') ? ` from ${text('base_template')}` : ''}`;
			},
			delete: 'deleted template'
		}
	},
	host: {
		title: 'Hosts',
		noun: 'host',
		actions: {
			add: 'registered host',
			token_issue: ({ name }) => `made a new registration token for host ${name}`,
			marked_up: ({ name }) => `heard of host ${name} again`,
			marked_down: ({ name }) => `heard nothing of host ${name} any more`,
			drain: ({ name }) => `drained host ${name}: it takes nothing new`,
			drain_end: ({ name }) => `ended the drain of host ${name}`,
			credentials_revoked: ({ name }) => `voided the credentials of host ${name}: a token was used twice`,
			delete: ({ name, value }) => `deleted host ${name}${taken(value)}`
		}
	},
	api_key: {
		title: 'API keys',
		noun: 'API key',
		actions: { create: 'created API key', revoke: 'revoked API key' }
	},
	secret: {
		title: 'Secrets',
		noun: 'secret',
		actions: {
			create: 'made secret',
			update: ({ name }) => `gave secret ${name} another value`,
			delete: 'deleted secret'
		}
	},
	volume: {
		title: 'Volumes',
		noun: 'volume',
		actions: { create: 'made volume', delete: 'deleted volume' }
	},
	member: {
		title: 'Members',
		noun: 'member',
		actions: {
			add: ({ name }) => `added ${name} to the team`,
			role_update: ({ name, text }) => {
				const role = text('to') ?? text('role');
				return role === undefined ? `changed the role of ${name}` : `made ${name} ${article(role)}`;
			},
			remove: ({ name }) => `removed ${name} from the team`,
			leave: () => 'left the team'
		}
	},
	team: {
		title: 'Teams',
		noun: 'team',
		actions: {
			create: 'created team',
			rename: ({ name, text }) => `renamed the team to ${text('to') ?? name}`,
			byoc_update: ({ value }) =>
				`${value('is_byoc') === true ? 'let the team bring' : 'ended that the team may bring'} hosts of its own`,
			quota_update: ({ value }) => `changed what the team may have${limits(value)}`,
			delete: ({ name, value }) => `deleted team ${name}${taken(value)}`
		}
	},
	user: {
		title: 'People',
		noun: 'person',
		actions: {
			signup: () => 'signed up',
			login_failed: ({ text }) => `failed to sign in${text('address') ? ` from ${text('address')}` : ''}`,
			logout: () => 'signed out',
			session_end: () => 'ended another sign-in of theirs',
			rename: () => 'changed their name',
			password_change: () => 'changed their password',
			password_reset: ({ name }) => `gave ${name} another password`,
			identity_link: () => 'linked another way to sign in',
			identity_unlink: () => 'unlinked a way to sign in',
			admin_grant: ({ name }) => `made ${name} an administrator of the platform`,
			admin_revoke: ({ name }) => `took the administration of the platform from ${name}`
		}
	}
};

/** The kinds of things that something is done to, for filters. */
export const KINDS = Object.entries(SAID).map(([word, { title, actions }]) => ({
	word,
	title,
	actions: Object.keys(actions)
}));

/** What was not done, where the action's own word does not say it. */
const UNDONE: Record<string, string> = { update_network: 'change the network rules of', auto_pause: 'pause' };

const ACTORS: Record<string, string> = { system: 'Sandbar', host: 'A host' };

/** Who did what to what, and how. Metadata that an event does not have is not spoken of. */
export function sentence(event: AuditEvent): { actor: string; said: string } {
	// Of whom something failed to prove to be, the platform knows nothing.
	const actor = (event.action !== 'login_failed' && (event.actor_name || ACTORS[event.actor_type])) || 'Somebody';
	return { actor, said: predicate(event) };
}

function predicate(event: AuditEvent): string {
	const value = (field: string) => (event.metadata as Partial<Record<string, unknown>>)[field];
	const text = (field: string) => {
		const found = value(field);
		return typeof found === 'string' && found !== '' ? found : undefined;
	};
	const name = text('name') ?? text('email') ?? shortId(event.resource_id);
	const kind = SAID[event.resource_type];
	const noun = kind?.noun ?? event.resource_type.replaceAll('_', ' ');
	const words = event.action.replaceAll('_', ' ');
	if (event.status === 'error') {
		const why = text('error') ?? text('reason');
		return `could not ${UNDONE[event.action] ?? words} ${noun} ${name}${why ? `: ${why}` : ''}`;
	}
	const said = kind?.actions[event.action];
	if (said === undefined) return `${words} ${noun} ${name}`.trim();
	if (typeof said === 'string') return `${said} ${name}`;
	return said({ name, text, value, status: event.status });
}

const article = (role: string) => (role === 'owner' ? 'the owner' : /^[aeiou]/.test(role) ? `an ${role}` : `a ${role}`);

/** What went with something. */
function taken(value: Told['value']): string {
	const parts = [
		['sandboxes', 'capsule'],
		['snapshots', 'snapshot'],
		['volumes', 'volume']
	].flatMap(([field, noun]) => {
		const number = value(field!);
		return typeof number === 'number' && number > 0 ? [`${count(number)} ${noun}${number === 1 ? '' : 's'}`] : [];
	});
	return parts.length === 0 ? '' : ` with ${parts.join(' and ')}`;
}

const LIMITS = [
	['sandboxes', 'capsules'],
	['vcpus', 'vCPUs'],
	['memory_mb', 'MiB of memory'],
	['snapshots', 'snapshots'],
	['builds', 'builds'],
	['secrets', 'secrets'],
	['volumes', 'volumes'],
	['volume_mb', 'MiB of volumes']
] as const;

/** Which limits are what now. */
function limits(value: Told['value']): string {
	const parts = LIMITS.flatMap(([field, noun]) => {
		const change = value(field) as { to?: unknown } | undefined;
		if (change === undefined) return [];
		return [typeof change.to === 'number' ? `${count(change.to)} ${noun}` : `${noun} as by default`];
	});
	return parts.length === 0 ? '' : `: ${parts.join(', ')}`;
}
