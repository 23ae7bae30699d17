import { sveltekit } from '@sveltejs/kit/vite';
import { defineConfig } from 'vitest/config';
import { strictPolicy } from './build/strict-policy.ts';

const platform = process.env.SANDBAR_URL ?? 'http://127.0.0.1:8080';

export default defineConfig({
	plugins: [sveltekit(), strictPolicy()],
	// The plugin above has to see it.
	optimizeDeps: { exclude: ['@xterm/xterm'] },
	// Nothing is inlined into a page as data.
	build: { assetsInlineLimit: 0 },
	server: { proxy: { '/v1': { target: platform, ws: true }, '/docs': platform, '/openapi.json': platform } },
	test: { include: ['src/**/*.test.ts'] }
});
