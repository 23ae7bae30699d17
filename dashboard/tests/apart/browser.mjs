// Inside: the platform's port leads to the socket that `outside.ts` listens on, then Chromium starts, with the pipes of who called.

import { execFileSync, spawn } from 'node:child_process';
import { connect, createServer } from 'node:net';

const { hostname, port } = new URL(process.env.SANDBAR_URL);
execFileSync('ip', ['link', 'set', 'lo', 'up']);
createServer({ allowHalfOpen: true }, (inside) => {
	const outside = connect({ path: process.env.SANDBAR_OUTSIDE, allowHalfOpen: true });
	inside.pipe(outside).pipe(inside);
	for (const [one, other] of [
		[inside, outside],
		[outside, inside]
	])
		one.on('error', () => other.destroy());
}).listen(Number(port), hostname, () => {
	const chromium = spawn(process.env.CHROMIUM, process.argv.slice(2), {
		stdio: ['inherit', 'inherit', 'inherit', 'inherit', 'inherit']
	});
	chromium.on('exit', (code) => process.exit(code ?? 1));
});
