// Outside: from sockets in the file system, which a network namespace does not hide, to the platform and the provider where people sign in. For as long as somebody holds a connection to
// the gate beside it, the platform is gone to the browser: what is open is cut, and nothing new gets through.

import { rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';

export const gateOf = (path: string) => `${path}.gate`;

export default async function listen(): Promise<() => void> {
	const { SANDBAR_URL: platform, SANDBAR_ISSUER: issuer } = process.env;
	const path = process.env.SANDBAR_OUTSIDE!;
	const open = new Set<Socket>();
	let holders = 0;
	const leads = (url: string, isHeld: () => boolean) => {
		const { port, hostname: host } = new URL(url);
		return createServer({ allowHalfOpen: true }, (inside) => {
			inside.on('error', () => {});
			if (isHeld()) return void inside.destroy();
			open.add(inside);
			const outside = connect({ port: Number(port), host, allowHalfOpen: true });
			inside.pipe(outside).pipe(inside);
			inside.on('close', () => {
				open.delete(inside);
				outside.destroy();
			});
			outside.on('error', () => inside.destroy());
		});
	};
	const ways: [string, Server][] = [[path, leads(platform!, () => holders > 0)]];
	if (issuer) ways.push([`${path}.issuer`, leads(issuer, () => false)]);
	const gate = createServer((holder) => {
		holders += 1;
		for (const inside of open) inside.destroy();
		holder.on('error', () => {});
		holder.on('close', () => (holders -= 1));
		holder.resume();
		holder.write('shut');
	});
	ways.push([gateOf(path), gate]);
	await Promise.all(ways.map(([at, server]) => listens(at, server)));
	return () => {
		for (const [at, server] of ways) {
			server.close();
			rmSync(at, { force: true });
		}
	};
}

function listens(path: string, server: Server): Promise<void> {
	rmSync(path, { force: true });
	return new Promise((ready) => server.listen(path, ready));
}
