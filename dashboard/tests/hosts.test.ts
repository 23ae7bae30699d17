// The machines that capsules run on: a team's own, and the platform's.

import { expect, firstPerson, shortId, signIn, signUp, test } from './world';

test('a team that may registers hosts of its own, and its members look on', async ({ page, request }) => {
	const admin = await firstPerson(request);
	const ann = await signUp(request, 'Ann');
	const bob = await signUp(request, 'Bob');
	const menu = page.getByRole('navigation', { name: 'Main' });
	await signIn(page, ann);
	await expect(menu.getByRole('link', { name: 'Hosts' })).toHaveCount(0);
	await page.goto('/dashboard/byoc');
	await expect(page.getByText('No hosts of its own')).toBeVisible();

	await admin.call('PUT', `/v1/admin/teams/${ann.team}/byoc`, { is_byoc: true });
	await page.reload();
	await menu.getByRole('link', { name: 'Hosts' }).click();
	await expect(page.getByText('No host yet')).toBeVisible();
	await page.getByRole('button', { name: 'Register a host' }).click();
	await page.getByLabel('Provider').fill('cellar');
	await page.getByLabel('Zone').fill('north');
	await page.getByRole('dialog').getByRole('button', { name: 'Register' }).click();
	const token = await page.getByRole('region', { name: 'Registration token' }).innerText();
	expect(token).toMatch(/^htok_/);
	const command = page.getByRole('region', { name: 'Command of the host' });
	await expect(command).toContainText(`SANDBAR_REGISTER_TOKEN=${token} sandbar host-agent`);
	await expect(command).toContainText(`--control-url ${new URL(page.url()).origin}`);
	await page.getByRole('button', { name: 'I have it' }).click();
	await expect(page.getByText(token)).toHaveCount(0);

	const [host] = await ann.call('GET', '/v1/hosts');
	const row = page.getByRole('row', { name: host.id.split('-').at(-1) });
	await expect(row).toContainText('pending');
	await expect(row).toContainText('cellar, north');
	await expect(row).toContainText('never');
	await expect(row.getByRole('button', { name: /^Drain/ })).toBeDisabled();

	await row.getByRole('button', { name: /^Tags/ }).click();
	const tags = page.getByRole('dialog').getByRole('list', { name: 'Tags' });
	await expect(tags).toHaveText('It has none.');
	await page.getByLabel('Another tag').fill('rack=12');
	await page.getByRole('button', { name: 'Add', exact: true }).click();
	await expect(tags).toHaveText('rack=12');
	expect(await ann.call('GET', `/v1/hosts/${host.id}/tags`)).toEqual(['rack=12']);
	await page.getByRole('button', { name: 'Remove rack=12' }).click();
	await expect(tags).toHaveText('It has none.');
	await page.getByRole('dialog').getByRole('button', { name: 'Close' }).click();

	await row.getByRole('button', { name: /^New token/ }).click();
	await page.getByRole('dialog').getByRole('button', { name: 'Make it' }).click();
	await expect(page.getByRole('region', { name: 'Registration token' })).not.toHaveText(token);
	await page.getByRole('button', { name: 'I have it' }).click();

	// Bob belongs to the team, and looks on.
	await ann.call('POST', `/v1/teams/${ann.team}/members`, { email: bob.email });
	await page.getByRole('button', { name: 'Sign out' }).click();
	await signIn(page, bob);
	await expect(menu.getByRole('link', { name: 'Hosts' })).toHaveCount(0);
	await page.getByRole('button', { name: /^Team:/ }).click();
	await page.getByRole('button', { name: /^Ann's Team/ }).click();
	await menu.getByRole('link', { name: 'Hosts' }).click();
	await expect(row).toContainText('pending');
	await expect(page.getByText('you are a member')).toBeVisible();
	await expect(page.getByRole('button', { name: 'Register a host' })).toBeDisabled();
	for (const act of [/^Drain/, /^New token/, /^Delete/])
		await expect(row.getByRole('button', { name: act })).toBeDisabled();

	await page.getByRole('button', { name: 'Sign out' }).click();
	await signIn(page, ann);
	await menu.getByRole('link', { name: 'Hosts' }).click();
	await row.getByRole('button', { name: /^Delete/ }).click();
	await expect(page.getByRole('dialog')).toContainText('Nothing runs there');
	await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
	await expect(page.getByText('No host yet')).toBeVisible();
	expect(await ann.call('GET', '/v1/hosts')).toEqual([]);
});

test('the platform’s hosts are drained and taken back, and what would end with one is told', async ({
	page,
	request
}) => {
	const admin = await firstPerson(request);
	const capsule = await admin.capsule({ agent: 'aboard' });
	await signIn(page, admin);
	await page.getByRole('link', { name: 'All hosts' }).click();
	const all: { id: string; type: string; status: string }[] = await admin.call('GET', '/v1/hosts');
	const host = all.find((one) => one.type === 'regular' && one.status === 'online')!;
	const row = page.getByRole('row', { name: host.id.split('-').at(-1) });
	await expect(row).toContainText('online');
	await expect(row).toContainText(/\d+ × /);
	await expect(page.getByText('Processors')).toBeVisible();

	await row.getByRole('button', { name: /^Drain/ }).click();
	await page.getByRole('dialog').getByRole('button', { name: 'Drain', exact: true }).click();
	await expect(row).toContainText('draining');
	expect((await admin.call('GET', `/v1/hosts/${host.id}`)).status).toBe('draining');
	await row.getByRole('button', { name: /^End the drain/ }).click();
	await expect(row).toContainText('online');
	expect((await admin.call('GET', `/v1/sandboxes/${capsule}`)).status).toBe('running');

	await row.getByRole('button', { name: /^Delete/ }).click();
	const dialog = page.getByRole('dialog');
	await expect(dialog.getByRole('list', { name: 'Capsules that end' })).toContainText(shortId(capsule));
	await expect(dialog.getByRole('button', { name: 'Delete' })).toBeDisabled();
	await dialog.getByRole('button', { name: 'Cancel' }).click();
	await expect(row).toContainText('online');

	await page.getByRole('link', { name: /^Teams’ own/ }).click();
	await expect(row).toHaveCount(0);
});
