// Pages in Debian's Chromium against a platform that runs: SANDBAR_URL, and its first person in SANDBAR_EMAIL and SANDBAR_PASSWORD.
// `cargo test -p sandbar-tests --test e2e -- dashboard` starts one and calls this, as root.

import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { defineConfig } from '@playwright/test';

// For the browser, which is started in a network of its own (tests/apart).
process.env.SANDBAR_URL ??= 'http://127.0.0.1:8080';
process.env.SANDBAR_OUTSIDE ??= join(tmpdir(), `sandbar-dashboard-${process.pid}`);
process.env.CHROMIUM ??= '/usr/bin/chromium';
process.env.NODE ??= process.execPath;

export default defineConfig({
	testDir: 'tests',
	outputDir: '../target/dashboard-tests',
	reporter: [['line']],
	globalSetup: './tests/apart/outside.ts',
	// One platform, whose guests want the processors for themselves.
	workers: 1,
	timeout: 180_000,
	expect: { timeout: 60_000 },
	use: {
		baseURL: process.env.SANDBAR_URL,
		launchOptions: {
			executablePath: 'tests/apart/browser.sh',
			// Chromium refuses its own sandbox to root; what it loads is ours.
			args: ['--no-sandbox']
		},
		viewport: { width: 1440, height: 900 },
		actionTimeout: 60_000,
		trace: 'retain-on-failure',
		screenshot: 'only-on-failure'
	}
});
