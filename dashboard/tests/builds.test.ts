// Templates made of recipes: asked for, watched and ended in the browser, built by real guests.

import { expect, firstPerson, signIn, signUp, test } from './world';

let names = 0;
const name = () => `made-${Date.now().toString(36)}-${(names += 1)}`;

test('a template is built as its steps are watched, and capsules start from it', async ({ page, request, watch }) => {
	test.setTimeout(600_000);
	// A recipe that is none.
	watch.expectErrors(/status of 400/);
	const person = await signUp(request, 'Builder');
	const template = name();
	person.leavesNothingOf('built', template);
	await signIn(page, person);
	await page.getByRole('link', { name: 'Builds' }).click();
	await expect(page.getByText('Nothing was built yet')).toBeVisible();
	await page.getByRole('button', { name: 'Create a template' }).click();
	const dialog = page.getByRole('dialog', { name: 'Create a template' });
	const recipe = dialog.getByRole('textbox', { name: 'Recipe' });
	await dialog.getByLabel('Name').fill(template);
	await recipe.fill('echo to stdout; echo to stderr >&2\nWORKDIR\necho later');
	await dialog.getByRole('button', { name: 'Build' }).click();
	await expect(recipe).toHaveAccessibleDescription(/^Line 2: WORKDIR/);
	await expect(dialog.getByRole('alert')).toContainText(/Request [0-9a-f-]{36}/);

	// What is mended has no fault any more.
	await recipe.fill('echo to stdout; echo to stderr >&2\nsleep 3; echo later');
	await expect(recipe).toHaveAttribute('aria-invalid', 'false');
	const base = dialog.getByLabel('Base template');
	await expect(base).toHaveValue('base');
	// Of an image it has any size; a recipe that says where it starts is heard.
	await base.selectOption({ label: 'An image of a registry …' });
	await dialog.getByRole('textbox', { name: /^Image/ }).fill('python:3.13-slim');
	await dialog.getByLabel('Memory, MiB').fill('1024');
	await base.selectOption('base');
	await expect(dialog.getByLabel('Memory, MiB')).toHaveCount(0);
	const steps = await recipe.inputValue();
	await recipe.fill(`FROM alpine:3\n${steps}`);
	await expect(base).toBeDisabled();
	await expect(dialog.getByLabel('Memory, MiB')).toBeVisible();
	await recipe.fill(steps);
	await dialog.getByLabel('Healthcheck').fill('test -d /etc');
	await dialog.getByRole('button', { name: 'Build' }).click();
	await expect(page).toHaveURL(/\/dashboard\/builds\/bld-/);
	await expect(page.getByRole('heading', { level: 1, name: template })).toBeVisible();

	// Nobody loads the page again.
	const shown = page.getByRole('region', { name: 'Steps', exact: true });
	const limit = { timeout: 300_000 };
	await expect(shown.getByRole('region', { name: 'stdout of step 1' })).toHaveText('to stdout', limit);
	await expect(shown.getByRole('region', { name: 'stderr of step 1' })).toHaveText('to stderr');
	await expect(shown.getByRole('listitem').first()).toContainText('exit code 0');
	const about = page.getByRole('region', { name: 'About the build' });
	await expect(about.getByRole('status')).toContainText('running');
	await expect(about.getByRole('status')).toContainText('step 2 of 4');
	await expect(shown.getByRole('region', { name: 'stdout of step 2' })).toHaveText('later', limit);
	await expect(about.getByRole('status')).toContainText('success', limit);
	await expect(page.getByRole('button', { name: 'Cancel the build' })).toHaveCount(0);

	await page.getByRole('button', { name: 'Start a capsule of it' }).click();
	await expect(page.getByRole('dialog').getByLabel('Template')).toHaveValue(template);
	await page.getByRole('dialog').getByRole('button', { name: 'Cancel' }).click();
	// Whoever comes later sees the same.
	await page.reload();
	await expect(shown.getByRole('region', { name: 'stdout of step 2' })).toHaveText('later');
	await page.getByRole('link', { name: 'Builds' }).click();
	await expect(page.getByRole('row', { name: template })).toContainText('success');
	await page.getByRole('link', { name: 'Templates & snapshots' }).click();
	await expect(page.getByRole('row', { name: template })).toContainText('disk and memory');
});

test('builds that fail say why, builds are cancelled, and members see why they may not', async ({ page, request }) => {
	test.setTimeout(600_000);
	const limit = { timeout: 300_000 };
	const ann = await signUp(request, 'Ann');
	const bob = await signUp(request, 'Bob');
	const begin = (recipe: string[]) => ann.call('POST', '/v1/builds', { name: name(), recipe });
	await signIn(page, ann);
	const status = page.getByRole('region', { name: 'About the build' }).getByRole('status');

	const failing = await begin(['echo before', 'echo no such thing >&2; exit 7']);
	await page.goto(`/dashboard/builds/${failing.id}`);
	await expect(status).toContainText('failed', limit);
	await expect(page.getByText('exit code 7').first()).toBeVisible();
	await expect(page.getByRole('region', { name: 'stderr of step 2' })).toHaveText('no such thing');

	const endless = await begin(['echo begun; sleep 86397']);
	await page.goto(`/dashboard/builds/${endless.id}`);
	await expect(page.getByRole('region', { name: 'stdout of step 1' })).toHaveText('begun', limit);
	await page.getByRole('button', { name: 'Cancel the build' }).click();
	await page.getByRole('dialog').getByRole('button', { name: 'End it' }).click();
	await expect(status).toContainText('cancelled', limit);

	await ann.call('POST', `/v1/teams/${ann.team}/members`, { email: bob.email });
	await page.getByRole('button', { name: 'Sign out' }).click();
	await signIn(page, bob);
	await page.getByRole('button', { name: /^Team:/ }).click();
	await page.getByRole('button', { name: /^Ann's Team/ }).click();
	await page.getByRole('link', { name: 'Builds' }).click();
	await expect(page.getByRole('row', { name: failing.name })).toContainText('failed');
	await expect(page.getByText('you are a member')).toBeVisible();
	await expect(page.getByRole('button', { name: 'Create a template' })).toBeDisabled();
});

test('the platform’s administrator builds for everybody, and ends builds of any team', async ({ page, request }) => {
	test.setTimeout(600_000);
	const limit = { timeout: 300_000 };
	const admin = await firstPerson(request);
	const ann = await signUp(request, 'Ann');
	const template = name();
	admin.leavesNoTemplate(template);
	const endless = await ann.call('POST', '/v1/builds', { name: name(), recipe: ['sleep 86397'] });
	await signIn(page, admin);
	const menu = page.getByRole('navigation', { name: 'Main' });
	const about = page.getByRole('region', { name: 'About the build' });
	await menu.getByRole('link', { name: 'All builds' }).click();
	const row = page.getByRole('row', { name: endless.name });
	await expect(row).toContainText("Ann's Team");
	await row.getByRole('link').click();
	await expect(about).toContainText("Ann's Team");
	await page.getByRole('button', { name: 'Cancel the build' }).click();
	await page.getByRole('dialog').getByRole('button', { name: 'End it' }).click();
	await expect(about.getByRole('status')).toContainText('cancelled', limit);
	expect((await ann.call('GET', `/v1/builds/${endless.id}`)).status).toBe('cancelled');

	await menu.getByRole('link', { name: 'Platform templates' }).click();
	await expect(page.getByRole('row', { name: 'base' }).getByRole('button', { name: /^Delete/ })).toHaveCount(0);
	await page.getByRole('button', { name: 'Create a template' }).click();
	await page.getByLabel('Name').fill(template);
	await page.getByRole('textbox', { name: 'Recipe' }).fill('echo for everybody');
	await page.getByRole('button', { name: 'Build', exact: true }).click();
	await expect(page).toHaveURL(/\/dashboard\/admin\/builds\/bld-/);
	await expect(page.getByRole('region', { name: 'stdout of step 1' })).toHaveText('for everybody', limit);
	await expect(about.getByRole('status')).toContainText('success', limit);
	await expect(about).toContainText('the platform');
	const offered = async () =>
		(await ann.call('GET', '/v1/snapshots')).map((one: { name: string }) => one.name).includes(template);
	expect(await offered()).toBe(true);

	await menu.getByRole('link', { name: 'Platform templates' }).click();
	const made = page.getByRole('row', { name: template });
	await made.getByRole('button', { name: /^Delete/ }).click();
	await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
	await expect(page.getByText(`${template} is deleted`)).toBeVisible();
	await expect(made).toHaveCount(0);
	expect(await offered()).toBe(false);
	await menu.getByRole('link', { name: 'All events' }).click();
	await expect(page.getByText(`deleted template ${template}`)).toBeVisible();
	await expect(page.getByText(`built template ${template} from base`)).toBeVisible();
	await expect(page.getByText(`asked for template ${endless.name}, whose build was cancelled`)).toBeVisible();
});
