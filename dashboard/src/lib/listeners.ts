// What listens in a capsule, as its kernel tells in /proc/net/tcp and tcp6. Pure.

export interface Listener {
	port: number;
	/** Servers on the guest's own loopback are reached from outside as well. */
	isLoopback: boolean;
}

const LISTENS = '0A';
/** The guest agent's, which has a key of its own. */
const AGENT_PORT = 49983;

export function listeners(...tables: string[]): Listener[] {
	const found = new Map<number, boolean>();
	for (const line of tables.flatMap((table) => table.split('\n'))) {
		const [, local, , state] = line.trim().split(/\s+/);
		const [address, port] = local?.split(':') ?? [];
		if (state !== LISTENS || address === undefined || port === undefined) continue;
		const number = parseInt(port, 16);
		if (number === AGENT_PORT) continue;
		// Wherever it is open to more than the loopback, that counts.
		found.set(number, (found.get(number) ?? true) && isLoopback(address));
	}
	return [...found].map(([port, isLoopback]) => ({ port, isLoopback })).sort((a, b) => a.port - b.port);
}

/** Words of 32 bits, each the wrong way round. */
const isLoopback = (address: string) =>
	address.length === 8
		? address.endsWith('7F')
		: /^0{24}01000000$/.test(address) || /^0{16}FFFF0000.{6}7F$/.test(address);

/**
 * The address of a port, for browsers; null where there is none. Without a domain the platform takes any name for one of a sandbox's that
 * begins as one, so on its own machine names below `localhost` do.
 */
export function portUrl(page: URL, domain: string | null, id: string, port: number): string | null {
	if (domain !== null) return `https://${port}-${id}.${domain}/`;
	if (!/^(localhost|127\.\d+\.\d+\.\d+)$/.test(page.hostname)) return null;
	return `${page.protocol}//${port}-${id}.localhost${page.port && `:${page.port}`}/`;
}
