// The content policy allows no inline script. SvelteKit's document has one, which starts the application: it becomes a file.

import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Plugin } from 'vite';

const INLINE = /<script>([\s\S]*?)<\/script>/g;

export function externalScripts(): Plugin {
	return {
		name: 'external-scripts',
		apply: 'build',
		// After SvelteKit's own step, which runs the adapter.
		closeBundle: {
			sequential: true,
			order: 'post',
			handler() {
				const out = process.env.DASHBOARD_OUT ?? '../target/dashboard';
				const path = join(out, 'index.html');
				// There is one build for the server's side before.
				if (!existsSync(path)) return;
				const page = readFileSync(path, 'utf8').replace(INLINE, (_, code: string) => {
					const hash = createHash('sha256').update(code).digest('hex').slice(0, 12);
					const name = `_app/immutable/start.${hash}.js`;
					write(join(out, name), code.trim() + '\n');
					return `<script src="/${name}"></script>`;
				});
				write(path, page);
			}
		}
	};
}

function write(path: string, text: string) {
	writeFileSync(path, text);
	writeFileSync(`${path}.gz`, gzipSync(text, { level: 9 }));
}
