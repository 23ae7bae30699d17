// Capsules, which are real ones.

import { crowd, expect, firstPerson, shortId, signIn, test } from './world';

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

test('five thousand capsules are searched, sorted and scrolled with few of them drawn, and follow what happens', async ({
	page,
	request
}) => {
	test.skip(!process.env.SANDBAR_CROWD_EMAIL, 'the simulated host is started by tests/e2e');
	const person = await crowd(request);
	// What the page asks for: lists, a page at a time, and nothing for each row.
	const asked = { lists: 0, pages: 0, rows: 0 };
	page.on('request', (asks) => {
		const { pathname, searchParams } = new URL(asks.url());
		if (pathname === '/v1/sandboxes') asked[searchParams.has('cursor') ? 'pages' : 'lists'] += 1;
		else if (pathname.startsWith('/v1/sandboxes/')) asked.rows += 1;
	});
	await signIn(page, person);
	await expect(page.getByText('5,000 running of 5,000')).toBeVisible({ timeout: 120_000 });
	expect(asked).toEqual({ lists: 1, pages: 24, rows: 0 });
	const drawn = page.locator('.capsule');
	expect(await drawn.count()).toBeLessThan(80);

	// From end to end, some screens at a time: every frame finds rows where the eye is.
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

	// A row at a time: of what is drawn, only what leaves and what comes is touched.
	const touched = await page.evaluate(async () => {
		const frame = () => new Promise((done) => requestAnimationFrame(done));
		scrollTo(0, 40_000);
		await frame();
		await frame();
		const body = document.querySelector('.capsule')!.parentElement!;
		const height = document.querySelector<HTMLElement>('.capsule')!.offsetHeight;
		const most = { frame: 0, rows: 0 };
		for (let step = 0; step < 120; step += 1) {
			const watch = new MutationObserver(() => {});
			watch.observe(body, { childList: true });
			scrollBy(0, height);
			await frame();
			await frame();
			const changed = watch.takeRecords().flatMap((one) => [...one.addedNodes, ...one.removedNodes]);
			most.frame = Math.max(most.frame, changed.filter((node) => node instanceof HTMLElement).length);
			most.rows = Math.max(most.rows, body.querySelectorAll('.capsule').length);
			watch.disconnect();
		}
		return most;
	});
	expect(touched.frame).toBeLessThanOrEqual(4);
	expect(touched.rows).toBeLessThan(80);
	expect(asked.rows).toBe(0);

	// What did not change is not drawn again, however often it is asked for.
	await page.evaluate(() => scrollTo(0, 0));
	const number = (at: number) => page.getByRole('row').filter({ hasText: new RegExp(`number=${at}(?!\\d)`) });
	await expect(number(1)).toBeVisible();
	const same = await drawn.evaluateAll((rows) => {
		for (const row of rows) row.setAttribute('data-kept', '');
		return rows.length;
	});
	const before = asked.lists;
	await expect.poll(() => asked.lists, { timeout: 120_000 }).toBeGreaterThan(before + 1);
	await expect(page.locator('.capsule[data-kept]')).toHaveCount(same);
	const id = await number(2).getByRole('link').getAttribute('title');
	await person.call('POST', `/v1/sandboxes/${id}/pause`);
	await expect(number(2)).toContainText('paused', { timeout: 120_000 });
	await expect(page.getByText('4,999 running of 5,000')).toBeVisible();
	await expect(page.locator('.capsule[data-kept]')).toHaveCount(same);

	// Sorted and filtered are all of them, not those that are drawn.
	await page.getByRole('button', { name: 'Created' }).click();
	await expect(page.getByRole('columnheader', { name: 'Created' })).toHaveAttribute('aria-sort', 'ascending');
	await expect(drawn.first()).toContainText('number=5000');
	await page.getByRole('button', { name: 'Size' }).click();
	await page.getByRole('button', { name: 'Size' }).click();
	await expect(drawn.first()).toContainText('2 GiB');
	await page.getByRole('combobox', { name: 'State' }).selectOption('paused');
	await expect(drawn).toHaveCount(1);
	await page.getByRole('combobox', { name: 'State' }).selectOption('');
	await page.getByRole('searchbox').fill('agent=tester');
	await expect(page.getByText('1,667 of 5,000')).toBeVisible();
	expect(await drawn.count()).toBeLessThan(80);
	await page.getByRole('searchbox').fill('number=4321');
	await expect(drawn).toHaveCount(1);
	expect(asked.rows).toBe(0);
});
