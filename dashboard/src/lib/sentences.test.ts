import { expect, it } from 'vitest';
import type { AuditEvent } from './api/client';
import { KINDS, sentence } from './sentences';

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
const said = (resource_type: string, action: string, more: Parameters<typeof event>[0] = {}) =>
	sentence(event({ resource_type, action, ...more })).said;

it('says what was done in words', () => {
	expect(sentence(event({ action: 'destroy' }))).toEqual({ actor: 'Ann', said: 'destroyed capsule sb-…3f4a5b6c7d8e' });
	expect(said('sandbox', 'create', { metadata: { template: 'base' } })).toBe(
		'created capsule sb-…3f4a5b6c7d8e of base'
	);
	expect(said('team', 'rename', { metadata: { to: 'Blue' } })).toBe('renamed the team to Blue');
	expect(sentence(event({ actor_name: '', actor_type: 'system', action: 'auto_pause' }))).toEqual({
		actor: 'Sandbar',
		said: 'paused capsule sb-…3f4a5b6c7d8e, which was idle'
	});
	const failed = { actor_name: '', actor_type: 'system', metadata: { address: '192.0.2.1' } };
	expect(sentence(event({ resource_type: 'user', action: 'login_failed', ...failed }))).toEqual({
		actor: 'Somebody',
		said: 'failed to sign in from 192.0.2.1'
	});
});

it('says whom and what it was about, and what went with it', () => {
	expect(said('member', 'role_update', { metadata: { name: 'Bob', from: 'member', to: 'admin' } })).toBe(
		'made Bob an admin'
	);
	expect(said('sandbox', 'resume', { status: 'error', metadata: { reason: 'its host is away' } })).toBe(
		'could not resume capsule sb-…3f4a5b6c7d8e: its host is away'
	);
	expect(said('member', 'add', { metadata: { name: 'Bob' } })).toBe('added Bob to the team');
	expect(said('template', 'delete', { resource_id: 'my-own-tools' })).toBe('deleted template my-own-tools');
	expect(said('template', 'build', { resource_id: 'tools', status: 'error', metadata: { error: 'no' } })).toBe(
		'could not build template tools: no'
	);
	expect(said('template', 'build', { resource_id: 'tools', status: 'warning' })).toBe(
		'asked for template tools, whose build was cancelled'
	);
	expect(said('team', 'delete', { metadata: { name: 'Blue', sandboxes: 1, snapshots: 2 } })).toBe(
		'deleted team Blue with 1 capsule and 2 snapshots'
	);
	expect(said('team', 'quota_update', { metadata: { sandboxes: { from: null, to: 5 }, vcpus: { to: null } } })).toBe(
		'changed what the team may have: 5 capsules, vCPUs as by default'
	);
});

it('has a sentence for everything that can be filtered by', () => {
	for (const { word, actions } of KINDS)
		for (const action of actions) expect(said(word, action)).not.toContain(action.replace('_', ' ') + ' ');
});

it('says what it does not know as it is', () => {
	expect(said('new_thing', 'turn_over', { resource_id: 'x' })).toBe('turn over new thing x');
});
