// The content policy allows nothing inline. SvelteKit's document has a script, which starts the application: it becomes a file. And the
// element by which SvelteKit tells screen readers of a new page has a style: it gets a class of ours that does the same. The terminal writes
// styles into its elements, which become stylesheets and properties.

import { createHash } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Plugin } from 'vite';

const ANNOUNCER = /(id="svelte-announcer"[^>]*?) style="[^"]*"/;
const STYLE_ELEMENT = /=this\._document\.createElement\("style"\)|=\w+\.mainDocument\.createElement\("style"\)/g;
const STYLE_ATTRIBUTE = /(\w+)\.setAttribute\("style",`\$\{\1\.getAttribute\("style"\)\|\|""\}\$\{(\w+)\};`\)/g;
const INLINE = /<script>([\s\S]*?)<\/script>/g;

export function strictPolicy(): Plugin[] {
	return [announcer(), terminal(), externalScripts()];
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

function terminal(): Plugin {
	return {
		name: 'terminal-by-stylesheet',
		enforce: 'pre',
		transform(code, id) {
			if (!id.includes('/@xterm/xterm/lib/xterm.mjs')) return;
			const [elements, attributes] = [STYLE_ELEMENT, STYLE_ATTRIBUTE].map((one) => code.match(one)?.length);
			if (elements !== 3 || attributes !== 1) this.error('the terminal styles itself otherwise than it did');
			const strict = code.replace(STYLE_ELEMENT, '=strictStyle()').replace(STYLE_ATTRIBUTE, '$1.style.cssText+=$2');
			if (/createElement\("style"\)|Attribute\("style"/.test(strict))
				this.error('the terminal has more styles than it had');
			return {
				code: `import { styleElement as strictStyle } from '$lib/terminal/style-element';\n${strict}`,
				map: null
			};
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
