// Pages in Debian's Chromium against a platform that runs: SANDBAR_URL, and its first person in SANDBAR_EMAIL and SANDBAR_PASSWORD.
// `cargo test -p sandbar-tests --test e2e -- dashboard` starts one and calls this.

import { defineConfig } from '@playwright/test';

export default defineConfig({
	testDir: 'tests',
	outputDir: '../target/dashboard-tests',
	reporter: [['line']],
	// One platform, whose guests want the processors for themselves.
	workers: 1,
	timeout: 120_000,
	expect: { timeout: 30_000 },
	use: {
		baseURL: process.env.SANDBAR_URL ?? 'http://127.0.0.1:8080',
		launchOptions: {
			executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
			// Chromium refuses its own sandbox to root.
			args: process.getuid?.() === 0 ? ['--no-sandbox'] : []
		},
		viewport: { width: 1440, height: 900 },
		actionTimeout: 30_000,
		trace: 'retain-on-failure',
		screenshot: 'only-on-failure'
	}
});
