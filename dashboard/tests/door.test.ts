// Coming in, staying in, going out.

import { expect, firstPerson, PASSWORD, shortId, signIn, signUp, test, whileGone } from './world';

test('somebody signs up, has a key, and the commands have it too', async ({ page, baseURL, request, watch }) => {
	// That nobody is signed in yet is learnt from the platform.
	watch.expectErrors(/status of 401/);
	await page.goto('/');
	await expect(page).toHaveURL(/\/login/);
	await page.getByRole('link', { name: 'Sign up' }).click();
	await page.getByLabel('Name').fill('Nell');
	const email = `nell-${Date.now().toString(36)}@example.org`;
	await page.getByLabel('E-mail').fill(email);
	await page.getByLabel('Password').fill(PASSWORD);
	await page.getByRole('button', { name: 'Make my account' }).click();
	await expect(page.getByRole('heading', { name: 'First steps' })).toBeVisible();
	await page.getByRole('button', { name: 'Make a key' }).click();
	const key = await page.getByRole('region', { name: 'Your API key' }).innerText();
	expect(key).toMatch(/^e2b_[0-9a-f]{40}$/);
	const environment = await page.getByRole('region', { name: 'Environment of the command line' }).innerText();
	expect(environment).toBe(`export SANDBAR_URL=${baseURL}\nexport SANDBAR_API_KEY=${key}`);
	const sdk = await page.getByRole('region', { name: 'Environment of E2B’s SDKs', exact: true }).innerText();
	expect(sdk).toBe(`export E2B_API_URL=${baseURL}\nexport E2B_SANDBOX_URL=${baseURL}\nexport E2B_API_KEY=${key}`);
	const { domain } = await (await page.request.get('/v1/platform')).json();
	await expect(page.getByText('by the platform’s domain')).toHaveCount(domain ? 1 : 0);
	const mine = await request.get('/v1/sandboxes', { headers: { 'x-api-key': key } });
	expect(await mine.json()).toEqual([]);

	// The session is where no script can read it.
	expect(await page.evaluate(() => document.cookie)).toBe('');
	const [cookie] = await page.context().cookies();
	expect(cookie).toMatchObject({ name: 'sandbar', httpOnly: true, sameSite: 'Strict' });
	expect(await page.evaluate(() => JSON.stringify(localStorage))).not.toContain(cookie!.value);
});

test('where the platform has a domain, the commands of E2B’s SDKs name it', async ({ page, request }) => {
	await page.route('**/v1/platform', (route) => route.fulfill({ json: { domain: 'sbx.example.org:8443' } }));
	await signIn(page, await signUp(request, 'Named'));
	await page.getByRole('link', { name: 'First steps' }).first().click();
	await expect(page.getByRole('region', { name: 'Environment of E2B’s SDKs by domain' })).toHaveText(
		/^export E2B_DOMAIN=sbx\.example\.org:8443\s+export E2B_API_KEY=<your API key>$/
	);
});

test('a wrong password is told as such, beside the form', async ({ page, request, watch }) => {
	watch.expectErrors(/status of 401/);
	const person = await signUp(request, 'Wrong');
	await page.goto('/login');
	await page.getByLabel('E-mail').fill(person.email);
	await page.getByLabel('Password').fill('not the password');
	await page.getByRole('button', { name: 'Sign in' }).click();
	await expect(page.getByRole('alert')).toContainText(/Request [0-9a-f-]{36}/);
	await expect(page).toHaveURL(/\/login$/);
});

test('a session that was ended elsewhere leads to the door and back', async ({ page, request, watch }) => {
	watch.expectErrors(/status of 401/);
	const person = await signUp(request, 'Ended');
	await signIn(page, person);
	await page.goto('/dashboard/keys');
	await expect(page.getByText('No key yet')).toBeVisible();
	const sessions = await person.call('GET', '/v1/me/sessions');
	const browser = sessions.find(
		(one: { user_agent: string }) => one.user_agent.includes('Chrome/') && !one.user_agent.includes('Playwright')
	);
	await person.call('DELETE', `/v1/me/sessions/${browser.id}`);
	await page.getByRole('link', { name: 'Team', exact: true }).click();
	await expect(page.getByText('Your session has ended')).toBeVisible();
	await page.getByLabel('E-mail').fill(person.email);
	await page.getByLabel('Password').fill(person.password);
	await page.getByRole('button', { name: 'Sign in' }).click();
	await expect(page).toHaveURL(/\/dashboard\/(team|keys)/);
});

test('signing out ends the session, and not only on the page', async ({ page, request, watch }) => {
	watch.expectErrors(/status of 401/);
	await signIn(page, await signUp(request, 'Leaver'));
	const [cookie] = await page.context().cookies();
	await page.getByRole('button', { name: 'Sign out' }).click();
	await expect(page).toHaveURL(/\/login$/);
	expect(await page.context().cookies()).toEqual([]);
	const again = await request.get('/v1/me', { headers: { cookie: `sandbar=${cookie!.value}` } });
	expect(again.status()).toBe(401);
	await page.goto('/dashboard/team');
	await expect(page).toHaveURL(/\/login\?next=%2Fdashboard%2Fteam$/);
});

test('the platform that goes away and comes back is told of, and nothing is lost from sight', async ({
	page,
	request,
	watch
}) => {
	watch.expectErrors(/ERR_(EMPTY_RESPONSE|CONNECTION_(RESET|CLOSED|REFUSED)|SOCKET_NOT_CONNECTED)/);
	const person = await firstPerson(request);
	const id = await person.capsule({ task: 'stays' });
	await signIn(page, person);
	const row = page.getByRole('row', { name: shortId(id) });
	await expect(row).toContainText('running');
	const away = page.getByText('The platform does not answer. What you see');
	await whileGone(async () => {
		await expect(away).toBeVisible();
		await expect(row).toContainText('running');
		// What is tried meanwhile is taken back.
		await row.getByRole('button', { name: /^Pause/ }).click();
		await expect(page.getByRole('status', { name: 'Messages' })).toContainText('was not paused');
		await expect(row).toContainText('running');
	});
	await expect(away).toBeHidden();
	await row.getByRole('button', { name: /^Pause/ }).click();
	await expect(row).toContainText('paused');
});

test('somebody signs up at a provider, and comes in that way', async ({ page, baseURL, watch }) => {
	const issuer = process.env.SANDBAR_ISSUER;
	test.skip(!issuer, 'the provider is started by tests/e2e');
	watch.expectErrors(/status of 401/);
	// The one place that a page leads to besides the platform.
	watch.expectErrors(new RegExp(`^asks ${issuer}/`));
	const there = page.getByRole('link', { name: 'Continue with Harbour ID' });
	await page.goto('/login');
	await there.click();
	await expect(page.getByRole('alert')).toContainText('Nobody here signs in that way yet');
	await page.getByRole('link', { name: 'Sign up' }).click();
	await there.click();
	await expect(page).toHaveURL(/\/dashboard\//);
	// What came of it was told to the page alone, and is used up.
	expect(await page.evaluate(() => location.hash)).toBe('');
	expect(page.url()).not.toContain('code');
	const [cookie] = await page.context().cookies(baseURL);
	expect(cookie).toMatchObject({ name: 'sandbar', httpOnly: true, sameSite: 'Strict' });
	await page.getByRole('link', { name: 'Account' }).click();
	await expect(page.getByText('Harbour ID').first()).toBeVisible();
	await page.getByRole('button', { name: 'Sign out' }).click();
	await expect(page).toHaveURL(/\/login$/);
	await there.click();
	await expect(page.getByRole('button', { name: "Team: Olga's Team" })).toBeVisible();
});
