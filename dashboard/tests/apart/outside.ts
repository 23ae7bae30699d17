// Outside: from a socket in the file system, which a network namespace does not hide, to the platform. For as long as somebody holds a connection to
// the gate beside it, the platform is gone to the browser: what is open is cut, and nothing new gets through.

import { rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';

export const gateOf = (path: string) => `${path}.gate`;

export default async function listen(): Promise<() => void> {
	const platform = new URL(process.env.SANDBAR_URL!);
	const path = process.env.SANDBAR_OUTSIDE!;
	const open = new Set<Socket>();
	let holders = 0;
	const way = createServer({ allowHalfOpen: true }, (inside) => {
		inside.on('error', () => {});
		if (holders > 0) return void inside.destroy();
		open.add(inside);
		const outside = connect({ port: Number(platform.port), host: platform.hostname, allowHalfOpen: true });
		inside.pipe(outside).pipe(inside);
		inside.on('close', () => {
			open.delete(inside);
			outside.destroy();
		});
		outside.on('error', () => inside.destroy());
	});
	const gate = createServer((holder) => {
		holders += 1;
		for (const inside of open) inside.destroy();
		holder.on('error', () => {});
		holder.on('close', () => (holders -= 1));
		holder.resume();
		holder.write('shut');
	});
	await Promise.all([at(path, way), at(gateOf(path), gate)]);
	return () => {
		for (const server of [way, gate]) server.close();
		for (const one of [path, gateOf(path)]) rmSync(one, { force: true });
	};
}

function at(path: string, server: Server): Promise<void> {
	rmSync(path, { force: true });
	return new Promise((ready) => server.listen(path, ready));
}
