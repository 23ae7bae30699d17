import { expect, it } from 'vitest';
import type { Host } from './api/client';
import { joining, size, stays, together } from './hosts';

const host = (fields: Partial<Host>) => ({ status: 'online', ...fields }) as Host;

it('says what to run on a machine that joins', () => {
	expect(joining('https://sandbar.test', 'htok_1')).toBe(
		'SANDBAR_REGISTER_TOKEN=htok_1 sandbar host-agent \\\n    --control-url https://sandbar.test --address <its address>:7443'
	);
});

it('tells what a host has, as far as it said', () => {
	expect(size(host({ cpu_cores: 8, memory_mb: 16_384, disk_gb: 100 }))).toBe('8 × 16 GiB · 100 GiB disk');
	expect(size(host({ cpu_cores: 8, memory_mb: 16_384 }))).toBe('8 × 16 GiB');
	expect(size(host({ status: 'pending' }))).toBe('–');
});

it('says why a capsule stays', () => {
	expect(stays('not_copied')).toBe('not in object storage yet');
	expect(stays('of a later version' as never)).toBe('of a later version');
});

it('counts together what is there', () => {
	const hosts = [
		host({ cpu_cores: 8, memory_mb: 1024, disk_gb: 10 }),
		host({ cpu_cores: 4, memory_mb: 1024, disk_gb: 10 }),
		host({ cpu_cores: 2, memory_mb: 1024, status: 'unreachable' }),
		host({ status: 'pending' })
	];
	expect(together(hosts)).toEqual({ online: '2 of 4', cores: '12', memory: '2 GiB', disk: '20 GiB' });
});
