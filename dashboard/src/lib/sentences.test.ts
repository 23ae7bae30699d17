import { expect, it } from 'vitest';
import type { AuditEvent } from './api/client';
import { sentence } from './sentences';

const event = (fields: Partial<Omit<AuditEvent, 'metadata'>> & { metadata?: object }) =>
	({
		actor_name: 'Ann',
		actor_type: 'user',
		resource_id: 'sb-0192f0c1-5c4e-7a3b-9d2e-3f4a5b6c7d8e',
		resource_type: 'sandbox',
		status: 'success',
		metadata: {},
		...fields
	}) as AuditEvent;

it('says what was done in words', () => {
	expect(sentence(event({ action: 'destroy' }))).toEqual({ actor: 'Ann', said: 'destroyed capsule sb-…3f4a5b6c7d8e' });
	expect(sentence(event({ resource_type: 'team', action: 'rename', metadata: { to: 'Blue' } })).said).toBe(
		'renamed the team to Blue'
	);
	expect(sentence(event({ resource_type: 'user', action: 'login', status: 'error' })).said).toBe('failed to sign in');
	expect(sentence(event({ actor_name: '', actor_type: 'system', action: 'auto_pause' }))).toEqual({
		actor: 'Sandbar',
		said: 'paused capsule sb-…3f4a5b6c7d8e, which was idle'
	});
});

it('says what it does not know as it is', () => {
	expect(sentence(event({ resource_type: 'new_thing', action: 'turn_over', resource_id: 'x' })).said).toBe(
		'turn over new thing x'
	);
});
