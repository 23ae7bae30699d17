// Coming in, staying in, going out.

import { expect, firstPerson, PASSWORD, signIn, signUp, test } from './world';

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
	const sdk = await page.getByRole('region', { name: 'Environment of E2B’s SDKs' }).innerText();
	expect(sdk).toBe(`export E2B_API_URL=${baseURL}\nexport E2B_SANDBOX_URL=${baseURL}\nexport E2B_API_KEY=${key}`);
	const mine = await request.get('/v1/sandboxes', { headers: { 'x-api-key': key } });
	expect(await mine.json()).toEqual([]);

	// The session is where no script can read it.
	expect(await page.evaluate(() => document.cookie)).toBe('');
	const [cookie] = await page.context().cookies();
	expect(cookie).toMatchObject({ name: 'sandbar', httpOnly: true, sameSite: 'Strict' });
	expect(await page.evaluate(() => JSON.stringify(localStorage))).not.toContain(cookie!.value);
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
	watch.expectErrors(/ERR_INTERNET_DISCONNECTED/);
	const person = await firstPerson(request);
	await signIn(page, person);
	await expect(page.getByRole('heading', { name: 'Capsules' })).toBeVisible();
	await page.context().setOffline(true);
	await expect(page.getByText('The platform does not answer')).toBeVisible();
	await page.context().setOffline(false);
	await expect(page.getByText('The platform does not answer')).toBeHidden();
});
