// The audit trail in words. Pure.

import type { AuditEvent } from './api/client';
import { shortId } from './format';

const DONE: Record<string, string> = {
	create: 'created',
	destroy: 'destroyed',
	delete: 'deleted',
	pause: 'paused',
	resume: 'resumed',
	fork: 'forked',
	rename: 'renamed',
	revoke: 'revoked',
	add: 'added',
	remove: 'removed',
	drain: 'drained'
};

const NOUNS: Record<string, string> = { sandbox: 'capsule', api_key: 'API key' };

/** Who did what to what, and how. Metadata that an event does not have is not spoken of. */
export function sentence(event: AuditEvent): { actor: string; said: string } {
	const actor = event.actor_name || { system: 'Sandbar', host: 'A host' }[event.actor_type] || 'Somebody';
	return { actor, said: predicate(event) };
}

function predicate(event: AuditEvent): string {
	const noun = NOUNS[event.resource_type] ?? event.resource_type.replaceAll('_', ' ');
	const told = (name: string) => {
		const value = (event.metadata as Partial<Record<string, unknown>>)[name];
		return typeof value === 'string' && value !== '' ? value : undefined;
	};
	const name = told('name') ?? told('email') ?? shortId(event.resource_id);
	switch (`${event.resource_type} ${event.action}`) {
		case 'sandbox auto_pause':
			return `paused ${noun} ${name}, which was idle`;
		case 'sandbox update_network':
			return `changed the network rules of ${noun} ${name}`;
		case 'user signup':
			return 'signed up';
		case 'user login':
			return event.status === 'success' ? 'signed in' : 'failed to sign in';
		case 'member leave':
			return 'left the team';
		case 'member role_update':
			return `made ${told('email') ?? 'a member'} ${told('to') ?? told('role') ?? 'something else'}`;
		case 'team rename':
			return `renamed the team to ${told('to') ?? name}`;
	}
	const verb = DONE[event.action] ?? event.action.replaceAll('_', ' ');
	return `${verb} ${noun} ${name}`;
}
