// Outside: from a socket in the file system, which a network namespace does not hide, to the platform.

import { rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';

export default function listen(): Promise<() => void> {
	const platform = new URL(process.env.SANDBAR_URL!);
	const path = process.env.SANDBAR_OUTSIDE!;
	rmSync(path, { force: true });
	const server = createServer({ allowHalfOpen: true }, (inside) => {
		const outside = connect({ port: Number(platform.port), host: platform.hostname, allowHalfOpen: true });
		inside.pipe(outside).pipe(inside);
		inside.on('error', () => outside.destroy());
		outside.on('error', () => inside.destroy());
	});
	return new Promise((ready) => {
		server.listen(path, () =>
			ready(() => {
				server.close();
				rmSync(path, { force: true });
			})
		);
	});
}
