// Every page in both themes, wide and narrow: nothing that axe finds wrong, and a picture of each in target/dashboard-screenshots.

import AxeBuilder from '@axe-core/playwright';
import { expect, firstPerson, signIn, test } from './world';

const SHOTS = '../target/dashboard-screenshots';
const SIZES = [
	{ width: 1440, height: 900 },
	{ width: 390, height: 844 }
];

test('every page is sound and looked at, in both themes, wide and narrow', async ({ page, request, watch }) => {
	test.setTimeout(1_200_000);
	const person = await firstPerson(request);
	const ids = [await person.capsule({ agent: 'reviewer', task: '42' }), await person.capsule({ agent: 'builder' })];
	await person.call('PUT', `/v1/sandboxes/${ids[0]}/network`, { deny_out: ['198.51.100.0/24'] });
	await person.call('POST', `/v1/sandboxes/${ids[0]}/exec`, {
		cmd: 'python3',
		args: ['-c', 'import socket; s=socket.socket(); s.settimeout(5); print(s.connect_ex(("198.51.100.7", 443)))']
	});
	await person.call('POST', `/v1/sandboxes/${ids[1]}/pause`);

	const look = async (name: string, path: string, settled: () => Promise<void>) => {
		for (const theme of ['dark', 'light']) {
			await page.evaluate((theme) => localStorage.setItem('theme', theme), theme);
			for (const size of SIZES) {
				await page.setViewportSize(size);
				await page.goto(path);
				await settled();
				await expect(page.locator('.skeleton')).toHaveCount(0);
				await page.evaluate(() => document.fonts.ready);
				await page.screenshot({ path: `${SHOTS}/${name}-${theme}-${size.width}.png`, animations: 'disabled' });
				if (size.width === 1440 || theme === 'dark') {
					const { violations } = await new AxeBuilder({ page }).analyze();
					const told = violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html).join(' | ')}`);
					expect(told, `${name}, ${theme}, ${size.width}`).toEqual([]);
				}
				const isWide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
				expect(isWide, `${name} at ${size.width} scrolls sideways`).toBe(false);
			}
		}
	};
	const heading = (name: string | RegExp) => () => expect(page.getByRole('heading', { level: 1, name })).toBeVisible();

	await page.goto('/login');
	await look('login', '/login', heading('Sign in'));
	await look('signup', '/signup', heading('Sign up'));
	await page.setViewportSize(SIZES[0]!);
	await signIn(page, person);
	await look('capsules', '/dashboard/capsules/list', () => expect(page.locator('.capsule').nth(1)).toBeVisible());
	const secret = `looked-at-${Date.now()}`;
	await person.call('POST', '/v1/secrets', { name: secret, value: 'v' });
	await look('create', '/dashboard/capsules/list?create', async () => {
		for (const more of ['Environment', 'Secrets', 'Who reaches its ports', 'What it reaches'])
			await page.getByRole('dialog').getByText(more, { exact: true }).click();
		await page.getByRole('button', { name: 'Add a secret' }).click();
	});
	await look('capsule', `/dashboard/capsules/${ids[0]}`, async () => {
		await expect(page.getByRole('img', { name: /^Memory: now/ })).toBeVisible();
		await expect(page.getByRole('region', { name: 'Network' })).toContainText('198.51.100.7');
		await expect(page.getByRole('region', { name: 'Events' })).toContainText('created');
	});
	await person.call('POST', `/v1/sandboxes/${ids[0]}/exec`, {
		cmd: 'bash',
		args: ['-c', 'cd; mkdir -p src notes; echo "# Plan" > plan.md; seq 9000 > results.csv; ln -s plan.md latest']
	});
	const serving = [
		'-c',
		'setsid python3 -m http.server 8000 > /dev/null 2>&1 & until curl -so /dev/null 127.0.0.1:8000; do sleep 0.1; done'
	];
	await person.call('POST', `/v1/sandboxes/${ids[0]}/exec`, { cmd: 'bash', args: serving });
	const inside = `/dashboard/capsules/${ids[0]}?tab=`;
	await look('terminal', `${inside}terminal`, async () => {
		await expect(page.getByRole('status', { name: 'Connection' })).toHaveText('Connected');
		// What was shown for the picture before is shown again first.
		const mark = String(Date.now());
		const typed = 'clear; ls -lh --color; printf "\\e[3%dmcolour \\e[0m" 1 2 3 4 5 6; echo';
		await page.keyboard.type(`${typed} "${mark.slice(0, 6)}""${mark.slice(6)}"\n`);
		await expect(page.locator('.xterm-rows')).toContainText(mark);
	});
	await look('files', `${inside}files`, () => expect(page.getByRole('row', { name: 'plan.md' }).first()).toBeVisible());
	await look('edit', `${inside}files`, async () => {
		await page.getByRole('button', { name: 'plan.md', exact: true }).click();
		await expect(page.getByRole('textbox', { name: 'Contents of plan.md' })).toBeVisible();
	});
	await look('processes', `${inside}processes`, () =>
		expect(page.getByRole('row', { name: '/bin/bash' })).toBeVisible()
	);
	await look('logs', `${inside}logs`, () =>
		expect(page.getByRole('log', { name: 'What happened' })).toContainText('ended: ')
	);
	await look('ports', `${inside}ports`, () =>
		expect(page.getByRole('table', { name: 'What listens' })).toContainText('8000')
	);
	await look('asleep', `/dashboard/capsules/${ids[1]}?tab=files`, () =>
		expect(page.getByText('The capsule is paused')).toBeVisible()
	);
	await look('snapshots', '/dashboard/snapshots', () =>
		expect(page.getByText('base', { exact: true }).first()).toBeVisible()
	);
	const recipe = ['echo one; echo two >&2', 'ENV MODE=fast', 'seq 40; echo gone >&2; exit 7'];
	const build = await person.call('POST', '/v1/builds', { name: 'looked-at', recipe });
	await page.goto(`/dashboard/builds/${build.id}`);
	await expect(page.getByText('exit code 7').first()).toBeVisible({ timeout: 300_000 });
	await look('build', `/dashboard/builds/${build.id}`, () =>
		expect(page.getByRole('region', { name: 'stderr of step 3' })).toContainText('gone')
	);
	await look('builds', '/dashboard/builds', () =>
		expect(page.getByRole('row', { name: 'looked-at' }).first()).toContainText('failed')
	);
	watch.expectErrors(/status of 400/);
	await look('create-template', '/dashboard/builds', async () => {
		await page.getByRole('button', { name: 'Create a template' }).click();
		await page.getByLabel('Name').fill('python-tools');
		await page.getByLabel('Recipe').fill('pip install numpy\nWORKDIR\nENV MODE=fast');
		await page.getByRole('button', { name: 'Build', exact: true }).click();
		await expect(page.getByLabel('Recipe')).toHaveAccessibleDescription(/^Line 2/);
	});
	await look('stats', '/dashboard/capsules/stats?range=5m', () =>
		expect(page.getByRole('img', { name: /^Reserved memory: now/ })).toBeVisible()
	);
	await look('usage', '/dashboard/usage', () =>
		expect(page.getByRole('table', { name: 'Usage by day' })).toBeVisible()
	);
	await look('keys', '/dashboard/keys', heading('API keys'));
	await look('secrets', '/dashboard/secrets', () => expect(page.getByRole('row', { name: secret })).toBeVisible());
	await look('new-secret', '/dashboard/secrets', () => page.getByRole('button', { name: 'New secret' }).click());
	await person.call('DELETE', `/v1/secrets/${secret}`);
	await look('team', '/dashboard/team', async () => {
		await expect(page.getByRole('row', { name: person.email })).toBeVisible();
		await expect(page.getByText('Builds under way')).toBeVisible();
	});
	await look('account', '/dashboard/account', () => expect(page.getByText('this one')).toBeVisible());
	await look('audit', '/dashboard/audit', () => expect(page.getByText(/created capsule/).first()).toBeVisible());
	await look('welcome', '/dashboard/welcome', heading('First steps'));
	await look('admin-hosts', '/dashboard/admin/hosts', () => expect(page.getByText('online').first()).toBeVisible());
	await person.call('PUT', `/v1/admin/teams/${person.team}/byoc`, { is_byoc: true });
	const { host } = await person.call('POST', '/v1/hosts', { type: 'byoc', provider: 'cellar' });
	await look('byoc', '/dashboard/byoc', () => expect(page.getByText('cellar')).toBeVisible());
	await person.call('DELETE', `/v1/hosts/${host.id}`);
	await person.call('PUT', `/v1/admin/teams/${person.team}/byoc`, { is_byoc: false });
	await look('admin-teams', '/dashboard/admin/teams', heading('Teams'));
	await look('admin-limits', '/dashboard/admin/teams', async () => {
		await page
			.getByRole('button', { name: /^Limits/ })
			.first()
			.click();
		await expect(page.getByLabel('Running capsules')).toBeVisible();
	});
	await look('admin-templates', '/dashboard/admin/templates', () =>
		expect(page.getByText('base', { exact: true }).first()).toBeVisible()
	);
	await look('admin-builds', '/dashboard/admin/builds', () =>
		expect(page.getByRole('row', { name: 'looked-at' }).first()).toContainText('failed')
	);
	await look('admin-build', `/dashboard/admin/builds/${build.id}`, () =>
		expect(page.getByRole('region', { name: 'stderr of step 3' })).toContainText('gone')
	);
	await look('admin-audit', '/dashboard/admin/audit', () =>
		expect(page.getByText(/created capsule/).first()).toBeVisible()
	);
	await look('admin-users', '/dashboard/admin/users', heading('Users'));
	await look('admin-capsules', '/dashboard/admin/capsules', heading('All capsules'));
});

test('the first load is small, and what is inside a capsule comes when it is opened', async ({ page, request }) => {
	const scripts: Promise<{ bytes: number; text: string }>[] = [];
	page.on('response', (response) => {
		if (!response.url().endsWith('.js')) return;
		const sizes = response.request().sizes();
		scripts.push(
			Promise.all([sizes, response.text()]).then(([{ responseBodySize: bytes }, text]) => ({ bytes, text }))
		);
	});
	/** Whether any script had a word that is the terminal's, or the editor's. */
	const loaded = async (word: string) => (await Promise.all(scripts)).some(({ text }) => text.includes(word));
	const [terminal, editor] = ['xterm-rows', 'Take what is there now'];
	const person = await firstPerson(request);
	await signIn(page, person);
	await expect(page.getByRole('heading', { name: 'Capsules' })).toBeVisible();
	await page.waitForLoadState('networkidle');
	const bytes = (await Promise.all(scripts)).reduce((sum, script) => sum + script.bytes, 0);
	test.info().annotations.push({ type: 'first load, bytes', description: String(bytes) });
	expect(bytes).toBeGreaterThan(10 * 1024);
	expect(bytes).toBeLessThan(200 * 1024);

	const id = await person.capsule({ task: 'loads' });
	await page.goto(`/dashboard/capsules/${id}`);
	await expect(page.getByRole('region', { name: 'What it is' })).toContainText('running');
	expect([await loaded(terminal), await loaded(editor)]).toEqual([false, false]);
	await page.getByRole('link', { name: 'Files' }).click();
	await expect(page.getByRole('region', { name: 'Files' })).toBeVisible();
	await expect.poll(() => loaded(editor)).toBe(true);
	expect(await loaded(terminal)).toBe(false);
	await page.getByRole('link', { name: 'Terminal' }).click();
	await expect(page.getByRole('status', { name: 'Connection' })).toHaveText('Connected');
	await expect.poll(() => loaded(terminal)).toBe(true);
});
