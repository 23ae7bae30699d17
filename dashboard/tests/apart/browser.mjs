// Inside: the platform's port leads to the socket that `outside.ts` listens on, and so does that of the provider where people sign in, if there
// is one; then Chromium starts, with the pipes of who called.

import { execFileSync, spawn } from 'node:child_process';
import { connect, createServer } from 'node:net';

const { SANDBAR_URL, SANDBAR_ISSUER, SANDBAR_OUTSIDE } = process.env;
execFileSync('ip', ['link', 'set', 'lo', 'up']);
await Promise.all([
	leads(SANDBAR_URL, SANDBAR_OUTSIDE),
	SANDBAR_ISSUER && leads(SANDBAR_ISSUER, `${SANDBAR_OUTSIDE}.issuer`)
]);
const chromium = spawn(process.env.CHROMIUM, process.argv.slice(2), {
	stdio: ['inherit', 'inherit', 'inherit', 'inherit', 'inherit']
});
chromium.on('exit', (code) => process.exit(code ?? 1));

function leads(url, path) {
	const { hostname, port } = new URL(url);
	const way = createServer({ allowHalfOpen: true }, (inside) => {
		const outside = connect({ path, allowHalfOpen: true });
		inside.pipe(outside).pipe(inside);
		for (const [one, other] of [
			[inside, outside],
			[outside, inside]
		])
			one.on('error', () => other.destroy());
	});
	return new Promise((ready) => way.listen(Number(port), hostname, ready));
}
