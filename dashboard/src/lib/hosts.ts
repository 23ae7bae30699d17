// What pages make of hosts. Pure.

import type { Host, Schemas } from './api/client';
import { bytes, count, megabytes } from './format';

/** What a machine is to run to become the host of a token. */
export const joining = (origin: string, token: string) =>
	`SANDBAR_REGISTER_TOKEN=${token} sandbar host-agent \\\n    --control-url ${origin} --address <its address>:7443`;

/** What a host has, as far as it said. */
export function size(host: Host): string {
	if (host.cpu_cores == null || host.memory_mb == null) return '–';
	const disk = host.disk_gb == null ? '' : ` · ${bytes(host.disk_gb * 1024 ** 3)} disk`;
	return `${host.cpu_cores} × ${megabytes(host.memory_mb)}${disk}`;
}

/** Why a capsule stays on a host that takes nothing new. */
const STAYS: Record<Schemas['EndingSandbox']['reason'], string> = {
	running: 'runs',
	changing: 'is changing',
	missing: 'the host does not answer',
	not_copied: 'not in object storage yet',
	no_object_storage: 'no object storage to leave for',
	team_host: 'stays on its team’s host',
	has_volumes: 'its volumes are here'
};

/** The reason in words; the API's own for one of a later version. */
export const stays = (reason: Schemas['EndingSandbox']['reason']): string => STAYS[reason] ?? reason;

/** What hosts have together. Only of those that are there. */
export function together(hosts: Host[]) {
	const online = hosts.filter((host) => host.status === 'online');
	const sum = (of: (host: Host) => number | null | undefined) =>
		online.reduce((total, host) => total + (of(host) ?? 0), 0);
	return {
		online: `${count(online.length)} of ${count(hosts.length)}`,
		cores: count(sum((host) => host.cpu_cores)),
		memory: megabytes(sum((host) => host.memory_mb)),
		disk: bytes(sum((host) => host.disk_gb) * 1024 ** 3)
	};
}
