import adapter from '@sveltejs/adapter-static';

/** @type {import('@sveltejs/kit').Config} */
export default {
	kit: {
		// One document for every address, and files beside it: what the binary embeds.
		adapter: adapter({
			pages: process.env.DASHBOARD_OUT ?? '../target/dashboard',
			fallback: 'index.html',
			precompress: true
		}),
		paths: { relative: false },
		// A new version of the platform brings new files: a page that was open meanwhile loads whole at its next step.
		version: { pollInterval: 60_000 }
	},
	compilerOptions: { runes: true }
};
