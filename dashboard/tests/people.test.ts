// Teams, roles, keys, the trail, the platform's own pages: who sees and may do what.

import { expect, firstPerson, shortId, signIn, signUp, test } from './world';

test('two people in two teams see their own, and each role what it may', async ({ page, request, browser, watch }) => {
	// 409: asked for in the moment in which the team changes.
	watch.expectErrors(/status of 40[1349]/);
	const ann = await signUp(request, 'Ann');
	const bob = await signUp(request, 'Bob');
	await signIn(page, ann);

	await page.getByRole('link', { name: 'Team', exact: true }).click();
	await page.getByRole('button', { name: 'Rename' }).click();
	await page.getByRole('dialog').getByLabel('Name').fill('Harbour');
	await page.getByRole('dialog').getByRole('button', { name: 'Rename' }).click();
	await expect(page.getByRole('heading', { name: 'Harbour' })).toBeVisible();
	await expect(page.getByRole('button', { name: 'Team: Harbour' })).toBeVisible();

	await page.getByRole('button', { name: 'Add a member' }).click();
	await page.getByLabel('E-mail').fill(bob.email.slice(0, bob.email.indexOf('@') + 2));
	await page.getByRole('button', { name: `Bob ${bob.email}` }).click();
	await page.getByRole('button', { name: 'Add', exact: true }).click();
	await expect(page.getByRole('row', { name: bob.email })).toBeVisible();

	// Bob, beside her: his own team first, then hers, where he is a member.
	const other = await browser.newContext();
	const his = await other.newPage();
	await signIn(his, bob);
	await his.goto('/dashboard/team');
	await expect(his.getByRole('heading', { name: "Bob's Team" })).toBeVisible();
	await his.getByRole('button', { name: /^Team:/ }).click();
	await his.getByRole('button', { name: /^Harbour/ }).click();
	await expect(his.getByRole('button', { name: 'Team: Harbour' })).toBeVisible();
	await his.getByRole('link', { name: 'Team', exact: true }).click();
	await expect(his.getByRole('row', { name: ann.email })).toContainText('owner');
	await expect(his.getByRole('button', { name: 'Rename' })).toHaveCount(0);
	await expect(his.getByRole('button', { name: 'Add a member' })).toHaveCount(0);
	await expect(his.getByRole('link', { name: 'Users' })).toHaveCount(0);
	await his.goto('/dashboard/admin/users');
	await expect(his.getByText('You are not one of them')).toBeVisible();

	await page.getByLabel('Role of Bob').selectOption('admin');
	await expect(page.getByText('Bob is admin now')).toBeVisible();
	await his.goto('/dashboard/team');
	await expect(his.getByRole('button', { name: 'Rename' })).toBeVisible();

	await page
		.getByRole('row', { name: bob.email })
		.getByRole('button', { name: /^Make owner/ })
		.click();
	await page.getByRole('dialog').getByRole('button', { name: 'Make owner' }).click();
	// Her only team is not left; with another one it is, and that one comes in its place.
	await expect(page.getByRole('button', { name: 'Leave the team' })).toBeDisabled();
	await page.getByRole('button', { name: 'Team: Harbour' }).click();
	await page.getByRole('button', { name: 'New team' }).click();
	await page.getByRole('dialog').getByLabel('Name').fill('Second');
	await page.getByRole('button', { name: 'Make the team' }).click();
	await page.getByRole('button', { name: 'Team: Second' }).click();
	await page.getByRole('button', { name: /^Harbour/ }).click();
	await expect(page.getByRole('button', { name: 'Team: Harbour' })).toBeVisible();
	await page.getByRole('link', { name: 'Team', exact: true }).click();
	await page.getByRole('button', { name: 'Leave the team' }).click();
	await page.getByRole('dialog').getByRole('button', { name: 'Leave' }).click();
	await expect(page.getByText('You left Harbour')).toBeVisible();
	await expect(page.getByRole('button', { name: 'Team: Second' })).toBeVisible();
	await expect(page.getByRole('button', { name: 'Create', exact: true })).toBeEnabled();

	// Bob owns two teams; the one that he deletes leads to the other.
	await his.goto('/dashboard/team');
	await his.getByRole('button', { name: 'Delete the team' }).click();
	await his.getByLabel('Type Harbour to go on').fill('Harbour');
	await his.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
	await expect(his.getByText('Harbour is deleted')).toBeVisible();
	await expect(his.getByRole('button', { name: "Team: Bob's Team" })).toBeVisible();
	await other.close();
});

test('who belongs to no team is told so, and may make one', async ({ page, request, watch }) => {
	watch.expectErrors(/status of 40[139]/);
	const ann = await signUp(request, 'Ann');
	const bob = await signUp(request, 'Bob');
	await ann.call('POST', `/v1/teams/${ann.team}/members`, { email: bob.email });
	await bob.call('DELETE', `/v1/teams/${bob.team}`);
	const { members } = await ann.call('GET', `/v1/teams/${ann.team}`);
	const member = members.find((one: { email: string }) => one.email === bob.email);
	await ann.call('DELETE', `/v1/teams/${ann.team}/members/${member.user_id}`);
	await signIn(page, bob);
	await page.goto('/dashboard/capsules/list');
	await expect(page.getByText('You act for no team')).toBeVisible();
	const create = page.getByRole('button', { name: 'Create', exact: true });
	await expect(create).toBeDisabled();
	await expect(create).toHaveAccessibleDescription(/You act for no team: make one/);
	await page.goto('/dashboard/capsules/list?create');
	await expect(page.getByText('Capsules belong to a team')).toBeVisible();
	await expect(page.getByRole('dialog')).toHaveCount(0);
	await page.getByRole('button', { name: /^Team:|^No team/ }).click();
	await page.getByRole('button', { name: 'New team' }).click();
	await page.getByRole('dialog').getByLabel('Name').fill('Own again');
	await page.getByRole('button', { name: 'Make the team' }).click();
	await expect(page.getByText('Nothing runs here yet')).toBeVisible();
	await expect(create).toBeEnabled();
});

test('keys are shown once, listed, used and revoked', async ({ page, request }) => {
	const person = await signUp(request, 'Keys');
	await signIn(page, person);
	await page.goto('/dashboard/keys');
	await page.getByRole('button', { name: 'New key' }).click();
	await page.getByRole('dialog').getByLabel('Name').fill('ci');
	await page.getByLabel('Expires').selectOption('in 30 days');
	await page.getByRole('button', { name: 'Make the key' }).click();
	const key = await page.getByRole('region', { name: 'API key ci' }).innerText();
	await page.getByRole('button', { name: 'I have it' }).click();
	const row = page.getByRole('row', { name: 'ci' });
	await expect(row).toContainText(key.slice(0, 12));
	await expect(row).toContainText('in 29 d');
	await expect(page.getByText(key)).toHaveCount(0);
	const list = () => request.get('/v1/sandboxes', { headers: { 'x-api-key': key } });
	expect((await list()).status()).toBe(200);
	await row.getByRole('button', { name: 'Revoke ci' }).click();
	await page.getByRole('dialog').getByRole('button', { name: 'Revoke' }).click();
	await expect(page.getByText('ci is revoked')).toBeVisible();
	expect((await list()).status()).toBe(401);

	// And the trail has it in words.
	await page.getByRole('link', { name: 'Audit log' }).click();
	await expect(page.getByText('revoked API key ci')).toBeVisible();
	await page.getByLabel('Action').selectOption('create');
	await expect(page.getByText('revoked API key ci')).toHaveCount(0);
	await expect(page.getByText('created API key ci')).toBeVisible();
	await page.getByRole('textbox', { name: 'To' }).fill('2020-01-01');
	await expect(page.getByText('Nothing of the kind was done')).toBeVisible();
});

test('the audit log goes on as it is read', async ({ page, request }) => {
	const person = await signUp(request, 'Reader');
	// The first page has fifty.
	for (let n = 1; n <= 60; n++) await person.call('PATCH', `/v1/teams/${person.team}`, { name: `Name ${n}` });
	await signIn(page, person);
	await page.goto('/dashboard/audit');
	const events = page.getByRole('region', { name: 'Events' }).getByRole('listitem');
	await expect(events).toHaveCount(50);
	await events.last().scrollIntoViewIfNeeded();
	await page.mouse.wheel(0, 10_000);
	await expect(events.filter({ hasText: /Name 1\b/ })).toBeAttached();
	await expect(page.getByRole('button', { name: 'Show more' })).toHaveCount(0);
	const shown = await events.count();
	const { items } = await person.call('GET', '/v1/audit-logs?limit=100');
	expect(shown).toBe(items.length);
});

test('a secret’s value is typed once, replaced, given to a capsule and seen by nobody', async ({ page, request }) => {
	const person = await signUp(request, 'Secrets');
	await signIn(page, person);
	await page.goto('/dashboard/secrets');
	await page.getByRole('button', { name: 'New secret' }).click();
	const dialog = page.getByRole('dialog');
	await dialog.getByLabel('Name').fill('GitHub-Token');
	await dialog.getByLabel('Value').fill('hunter2-one');
	await dialog.getByRole('button', { name: 'Keep it' }).click();
	await expect(page.getByText('github-token is kept')).toBeVisible();
	const row = page.getByRole('row', { name: 'github-token' });
	await row.getByRole('button', { name: 'Replace github-token' }).click();
	await expect(dialog.getByLabel('Value')).toHaveValue('');
	await dialog.getByLabel('Value').fill('hunter2-two');
	await dialog.getByRole('button', { name: 'Replace' }).click();
	await expect(row.getByRole('cell', { name: '2', exact: true })).toBeVisible();
	await expect(page.getByText('hunter2')).toHaveCount(0);

	const task = `secrets-${Date.now()}`;
	person.leavesNothingOf(task, task);
	await page.getByRole('link', { name: 'Capsules', exact: true }).click();
	await page.getByRole('button', { name: 'Create', exact: true }).click();
	await dialog.getByLabel('Metadata').fill(`task=${task}`);
	await dialog.getByText('Secrets', { exact: true }).click();
	await dialog.getByRole('button', { name: 'Add a secret' }).click();
	await expect(dialog.getByLabel('Variable')).toHaveValue('GITHUB_TOKEN');
	await dialog.getByLabel('Variable').fill('A=B');
	await expect(dialog.getByRole('button', { name: 'Create' })).toBeDisabled();
	await dialog.getByLabel('Variable').fill('TOKEN');
	await dialog.getByRole('button', { name: 'Create' }).click();
	await expect(page).toHaveURL(/\/capsules\/sb-/, { timeout: 60_000 });
	const id = page.url().split('/').at(-1)!;
	const printed = await person.call('POST', `/v1/sandboxes/${id}/exec`, {
		cmd: '/bin/sh',
		args: ['-c', 'echo $TOKEN']
	});
	expect(printed.stdout).toBe('hunter2-two\n');

	await page.getByRole('link', { name: 'Secrets', exact: true }).click();
	await row.getByRole('button', { name: 'Delete github-token' }).click();
	await dialog.getByRole('button', { name: 'Delete' }).click();
	await expect(page.getByText('github-token is deleted')).toBeVisible();
	await expect(page.getByText('No secret yet')).toBeVisible();
	await page.getByRole('link', { name: 'Audit log' }).click();
	await expect(page.getByText('gave secret github-token another value')).toBeVisible();
	await expect(page.getByText('deleted secret github-token')).toBeVisible();
});

test('an account’s name, password and sign-ins are its owner’s to change', async ({ page, request, watch }) => {
	watch.expectErrors(/status of 40[13]/);
	const person = await signUp(request, 'Account');
	await signIn(page, person);
	await page.getByRole('link', { name: 'Account' }).click();
	await page.getByRole('textbox', { name: 'Name' }).fill('Renamed');
	await page.getByRole('button', { name: 'Change the name' }).click();
	await expect(page.getByText('Your name is changed')).toBeVisible();
	const rows = page.getByRole('region', { name: 'Sign-ins' }).getByRole('row');
	await expect(rows).toHaveCount(3);
	await page.getByRole('button', { name: /^End the sign-in/ }).click();
	await page.getByRole('dialog').getByRole('button', { name: 'End it' }).click();
	await expect(page.getByText('That sign-in is ended')).toBeVisible();
	await person.call('GET', '/v1/me', undefined, 401);
	await page.getByLabel('The one until now').fill('wrong wrong');
	await page.getByLabel('New password').fill('another horse battery');
	await page.getByRole('button', { name: 'Change the password' }).click();
	await expect(page.getByRole('alert')).toBeVisible();
	await page.getByLabel('The one until now').fill(person.password);
	await page.getByRole('button', { name: 'Change the password' }).click();
	await expect(page.getByText('Your password is changed')).toBeVisible();
});

test('the platform’s administrator sees all, and shares it', async ({ page, request }) => {
	const other = await signUp(request, 'Deputy');
	const id = await other.capsule();
	await signIn(page, await firstPerson(request));
	await page.getByRole('link', { name: 'Users' }).click();
	const user = page.getByRole('row', { name: other.email });
	await user.getByRole('button', { name: /^Make administrator/ }).click();
	await page.getByRole('dialog').getByRole('button', { name: 'Make administrator' }).click();
	await expect(user).toContainText('administers it');
	expect((await other.call('GET', '/v1/me')).is_admin).toBe(true);
	await user.getByRole('button', { name: /^Take back/ }).click();
	await page.getByRole('dialog').getByRole('button', { name: 'Take back' }).click();
	await expect(user).not.toContainText('administers it');

	await page.getByRole('link', { name: 'Teams', exact: true }).click();
	await page.getByLabel("Deputy's Team brings its own hosts").first().check();
	await expect(page.getByText("Deputy's Team may bring hosts of its own")).toBeVisible();
	expect((await other.call('GET', `/v1/teams/${other.team}`)).team.is_byoc).toBe(true);

	// A limit of its own, and the platform's again.
	const snapshots = async () => (await other.call('GET', `/v1/teams/${other.team}/quotas`)).snapshots;
	const before = await snapshots();
	for (const limit of ['3', '']) {
		await page.getByRole('button', { name: "Limits of Deputy's Team" }).first().click();
		await page.getByLabel('Snapshots').fill(limit);
		await page.getByRole('dialog').getByRole('button', { name: 'Set' }).click();
		await expect(page.getByRole('dialog')).toHaveCount(0);
		expect(await snapshots()).toEqual(limit ? { ...before, limit: 3, is_default: false } : before);
	}

	// What runs, and of whom.
	await page.getByRole('link', { name: 'All capsules' }).click();
	await page.getByRole('search').getByLabel('Team').selectOption(other.team);
	const capsules = page.getByRole('region', { name: 'Capsules' });
	await expect(capsules.getByRole('row', { name: shortId(id) })).toContainText('running');
	await expect(capsules.getByRole('row')).toHaveCount(2);
	await page.getByRole('search').getByLabel('State').selectOption('paused');
	await expect(capsules.getByText('No capsule is like that')).toBeVisible();

	// The trail of everybody has it in words.
	await page.getByRole('link', { name: 'All events' }).click();
	await expect(page.getByText('changed what the team may have: 3 snapshots').first()).toBeVisible();
	await page.getByRole('combobox', { name: 'What' }).selectOption({ label: 'People' });
	await page.getByLabel('Action').selectOption('admin_grant');
	await expect(page.getByText('made Deputy an administrator of the platform').first()).toBeVisible();
	await expect(page.getByText('changed what the team may have')).toHaveCount(0);
});

test('tabs of one browser show one person and one team', async ({ page, context, request, watch }) => {
	watch.expectErrors(/status of 40[19]/);
	const ann = await signUp(request, 'Tabs');
	// Two of one name are told apart.
	for (let made = 0; made < 2; made += 1) await ann.call('POST', '/v1/teams', { name: 'Twin' });
	await signIn(page, ann);
	const second = await context.newPage();
	await second.goto('/dashboard/team');
	await expect(second.getByRole('heading', { name: "Tabs's Team" })).toBeVisible();

	await page.keyboard.press('Control+k');
	await page.keyboard.type('twin');
	await expect(page.getByRole('option')).toHaveCount(2);
	await page.getByRole('option').last().click();
	await expect(page.getByRole('button', { name: 'Team: Twin' })).toBeVisible();
	await expect(second.getByRole('heading', { name: 'Twin' })).toBeVisible();

	// One that did not hear of it changes nothing for another team than it shows.
	const deaf = await context.newPage();
	await deaf.addInitScript(() => (BroadcastChannel.prototype.addEventListener = () => {}));
	await deaf.goto('/dashboard/keys');
	await expect(deaf.getByRole('button', { name: 'Team: Twin' })).toBeVisible();
	await deaf.getByRole('button', { name: 'New key' }).click();
	await deaf.getByRole('dialog').getByLabel('Name').fill('astray');
	await second.getByRole('button', { name: 'Team: Twin' }).click();
	await second.getByRole('button', { name: /^Tabs's Team/ }).click();
	await expect(second.getByRole('button', { name: "Team: Tabs's Team" })).toBeVisible();
	await expect(page.getByRole('button', { name: "Team: Tabs's Team" })).toBeVisible();
	await deaf
		.getByRole('button', { name: 'Make the key' })
		.click({ force: true, timeout: 5000 })
		.catch(() => {});
	await expect(deaf.getByRole('button', { name: "Team: Tabs's Team" })).toBeVisible();
	expect(await ann.call('GET', '/v1/api-keys')).toEqual([]);

	await second.getByRole('button', { name: 'Sign out' }).click();
	for (const tab of [page, deaf]) await expect(tab).toHaveURL(/\/login/);
});

test('everything is reached by keyboard', async ({ page, request }) => {
	await signIn(page, await signUp(request, 'Keyboard'));
	await expect(page.getByText('Nothing runs here yet')).toBeVisible();
	await page.keyboard.press('g');
	await page.keyboard.press('k');
	await expect(page).toHaveURL(/\/keys$/);
	await page.keyboard.press('Control+k');
	await page.keyboard.type('audit');
	await page.keyboard.press('Enter');
	await expect(page).toHaveURL(/\/audit$/);
	await page.keyboard.press('g');
	await page.keyboard.press('c');
	await expect(page).toHaveURL(/\/capsules\/list$/);
	await page.keyboard.press('c');
	await expect(page.getByRole('dialog', { name: 'Create a capsule' })).toBeVisible();
	await page.keyboard.press('Escape');
	await expect(page.getByRole('dialog')).toHaveCount(0);
});
