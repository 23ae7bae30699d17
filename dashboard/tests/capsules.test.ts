// Capsules, which are real ones.

import { expect, firstPerson, shortId, signIn, test } from './world';

test('a capsule is made, looked at, paused, resumed, kept, forked and destroyed', async ({ page, request, watch }) => {
	// Asked for in the moment of a change.
	watch.expectErrors(/status of 40[49].*\/(network|metrics)/);
	test.setTimeout(300_000);
	const person = await firstPerson(request);
	const task = Date.now().toString(36);
	const kept = `page-${task}`;
	person.leavesNothingOf(task, kept);
	await signIn(page, person);

	await page.getByRole('button', { name: 'Create', exact: true }).click();
	const dialog = page.getByRole('dialog', { name: 'Create a capsule' });
	await dialog.getByLabel('Metadata').fill('owner');
	await expect(dialog.getByRole('button', { name: 'Create' })).toBeDisabled();
	await dialog.getByLabel('Metadata').fill(`owner=ann, task=${task}`);
	await dialog.getByLabel('Time-out, seconds').fill('900');
	await dialog.getByRole('button', { name: 'Create' }).click();
	await expect(page).toHaveURL(/\/capsules\/sb-/, { timeout: 60_000 });
	const id = page.url().split('/').at(-1)!;
	const name = shortId(id);
	const facts = page.getByRole('region', { name: 'What it is' });
	await expect(facts).toContainText('running');
	await expect(facts).toContainText('paused after 15 m');
	await expect(facts).toContainText('ann');

	// Figures come from the guest's machine.
	const memory = page.getByRole('img', { name: /^Memory: now/ });
	await expect(memory).toHaveAttribute('aria-label', /Memory: now \d+(\.\d)? [KMG]iB/);
	await page.getByRole('button', { name: '2h' }).click();
	await expect(page.getByRole('button', { name: '2h' })).toHaveAttribute('aria-pressed', 'true');

	await page.getByRole('button', { name: 'Change the time-out' }).click();
	await page.getByLabel('After, seconds').fill('3600');
	await page.getByRole('button', { name: 'Change', exact: true }).click();
	await expect(facts).toContainText('paused after 1 h');

	// New rules are in force: what the guest then tries is denied, and seen.
	await page.getByRole('button', { name: 'Change rules' }).click();
	await page.getByRole('textbox', { name: 'Denied', exact: true }).fill('198.51.100.0/24');
	await page.getByRole('button', { name: 'Put in force' }).click();
	const network = page.getByRole('region', { name: 'Network' });
	await expect(network).toContainText('198.51.100.0/24');
	await person.call('POST', `/v1/sandboxes/${id}/exec`, {
		cmd: 'python3',
		args: ['-c', 'import socket; s=socket.socket(); s.settimeout(5); print(s.connect_ex(("198.51.100.7", 80)))']
	});
	await expect(network.getByRole('table', { name: 'Denied connections' })).toContainText('198.51.100.7:80');

	await page.getByRole('button', { name: `Pause ${name}` }).click();
	await expect(page.getByRole('button', { name: `Resume ${name}` })).toBeEnabled({ timeout: 90_000 });
	await expect(facts).toContainText('paused');
	await page.getByRole('button', { name: `Resume ${name}` }).click();
	await expect(page.getByRole('button', { name: `Pause ${name}` })).toBeEnabled({ timeout: 90_000 });

	await page.getByRole('button', { name: `Snapshot ${name}` }).click();
	await page.getByRole('dialog').getByLabel('Name').fill(kept);
	await page.getByRole('button', { name: 'Keep it' }).click();
	await expect(page.getByText(`Kept as ${kept}`)).toBeVisible({ timeout: 90_000 });

	await expect(page.getByRole('button', { name: `Fork ${name}` })).toBeEnabled();
	await page.getByRole('button', { name: `Fork ${name}` }).click();
	await page.getByRole('button', { name: 'Fork', exact: true }).click();
	await expect(page.getByText('1 running copy made')).toBeVisible({ timeout: 90_000 });

	const events = page.getByRole('region', { name: 'Events' });
	for (const done of ['created', 'paused', 'resumed', 'forked']) await expect(events).toContainText(`${done} capsule`);

	// The list has both, and the menu counts them.
	await page.getByRole('link', { name: /^Capsules/ }).click();
	await expect(page.getByRole('table', { name: 'Capsules' }).getByRole('link', { name })).toBeVisible();
	await page.getByRole('searchbox').fill(`task=${task}`);
	await expect(page.getByRole('table', { name: 'Capsules' }).getByRole('row')).toHaveCount(3);

	// A template with memory has its sizes; the page of templates starts from it.
	await page.getByRole('link', { name: 'Templates & snapshots' }).click();
	const row = page.getByRole('row', { name: kept });
	await row.getByRole('button', { name: /^Verify/ }).click();
	await expect(page.getByText(`${kept} is whole`)).toBeVisible({ timeout: 90_000 });
	await row.getByRole('button', { name: /^Start/ }).click();
	await expect(page.getByText('Started from memory')).toBeVisible();
	await page.getByRole('dialog').getByRole('button', { name: 'Create' }).click();
	await expect(page).toHaveURL(/\/capsules\/sb-/, { timeout: 90_000 });
	await page.getByRole('button', { name: /^Destroy/ }).click();
	await page.getByRole('button', { name: 'Destroy', exact: true }).click();
	await expect(page.getByText('is destroyed').first()).toBeVisible({ timeout: 60_000 });

	await page.getByRole('link', { name: 'Templates & snapshots' }).click();
	await row.getByRole('button', { name: /^Delete/ }).click();
	await page.getByRole('button', { name: 'Delete', exact: true }).click();
	await expect(page.getByText(`${kept} is deleted`)).toBeVisible();
	await expect(row).toHaveCount(0);
});

test('what the platform refuses is taken back on the page, and told with the request’s id', async ({
	page,
	request,
	watch
}) => {
	watch.expectErrors(/status of 40[49]/);
	const person = await firstPerson(request);
	const id = await person.capsule({ task: 'refused' });
	await signIn(page, person);
	const pause = page.getByRole('button', { name: `Pause ${shortId(id)}` });
	await expect(pause).toBeEnabled();
	// Another one destroys it meanwhile; the page has not heard of it.
	await page.route('**/v1/sandboxes?*', (route) => route.abort());
	await person.call('DELETE', `/v1/sandboxes/${id}`);
	watch.expectErrors(/ERR_FAILED/);
	await pause.click();
	const told = page.getByRole('status', { name: 'Messages' });
	await expect(told).toContainText('was not paused');
	await expect(told).toContainText(/Request [0-9a-f-]{36}/);
	await expect(page.getByRole('row', { name: shortId(id) })).toContainText('running');
	await page.unrouteAll();
	await expect(page.getByRole('row', { name: shortId(id) })).toHaveCount(0);
});

test('five thousand capsules are searched and scrolled with few of them drawn', async ({ page, request }) => {
	const person = await firstPerson(request);
	// Rows as the platform writes them, many times over.
	const rows = Array.from({ length: 5000 }, (_, index) => {
		const tail = index.toString(16).padStart(12, '0');
		const at = new Date(Date.UTC(2026, 0, 1) + index * 1000).toISOString();
		return {
			id: `sb-0192f0c1-5c4e-7a3b-9d2e-${tail}`,
			team_id: person.team,
			status: index % 3 === 0 ? 'paused' : 'running',
			template: 'base',
			vcpus: 1,
			memory_mb: 512,
			disk_mb: 2048,
			timeout_sec: 0,
			on_timeout: 'kill',
			metadata: { index: String(index) },
			created_at: at,
			updated_at: at
		};
	});
	await page.route('**/v1/sandboxes?*', (route) => {
		const from = Number(new URL(route.request().url()).searchParams.get('cursor') ?? 0);
		const next = from + 200 < rows.length ? { 'x-next-cursor': String(from + 200) } : undefined;
		return route.fulfill({ json: rows.slice(from, from + 200), headers: next });
	});
	await signIn(page, person);
	await expect(page.getByText('3,333 running of 5,000')).toBeVisible();
	const drawn = page.locator('.capsule');
	expect(await drawn.count()).toBeLessThan(80);
	// From end to end, a screen at a time: every frame finds rows where the eye is.
	const missing = await page.evaluate(async () => {
		let missing = 0;
		const frame = () => new Promise((done) => requestAnimationFrame(done));
		for (let top = 0; top < document.documentElement.scrollHeight; top += 5 * innerHeight) {
			scrollTo(0, top);
			await frame();
			await frame();
			const seen = document.elementFromPoint(innerWidth * 0.7, innerHeight / 2);
			if (!seen?.closest('.capsule')) missing += 1;
		}
		return missing;
	});
	expect(missing).toBe(0);
	expect(await drawn.count()).toBeLessThan(80);
	await page.getByRole('searchbox').fill('index=4321');
	await expect(drawn).toHaveCount(1);
});
