// The content policy allows nothing inline. SvelteKit's document has a script, which starts the application: it becomes a file. And the
// element by which SvelteKit tells screen readers of a new page has a style: it gets a class of ours that does the same.

import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Plugin } from 'vite';

const ANNOUNCER = /(id="svelte-announcer"[^>]*?) style="[^"]*"/;
const INLINE = /<script>([\s\S]*?)<\/script>/g;

export function strictPolicy(): Plugin[] {
	return [announcer(), externalScripts()];
}

function announcer(): Plugin {
	return {
		name: 'announcer-by-class',
		enforce: 'pre',
		transform(code, id) {
			if (!id.endsWith('/generated/root.svelte')) return;
			if (!ANNOUNCER.test(code)) this.error('SvelteKit announces pages by another element than it did');
			return { code: code.replace(ANNOUNCER, '$1 class="unseen"'), map: null };
		}
	};
}

function externalScripts(): Plugin {
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
