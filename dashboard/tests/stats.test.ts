// What a team has and used, from capsules that are real ones.

import { expect, signIn, signUp, test } from './world';

test('stats show what runs now and at most, keep their range in the address and follow what happens', async ({
	page,
	request
}) => {
	test.setTimeout(240_000);
	const person = await signUp(request, 'Stats');
	const first = await person.capsule({ agent: 'one' });
	await signIn(page, person);
	const menu = page.getByRole('navigation', { name: 'Main' });
	await menu.getByRole('link', { name: 'Stats' }).click();
	await expect(page).toHaveURL(/\/dashboard\/capsules\/stats$/);
	await expect(menu.getByRole('link', { name: 'Stats' })).toHaveAttribute('aria-current', 'page');
	await expect(menu.getByRole('link', { name: /^Capsules/ })).not.toHaveAttribute('aria-current', 'page');

	const card = (name: string, value: 'Now' | 'Peak') =>
		page.getByRole('region', { name }).locator('dl > div', { hasText: value }).locator('dd');
	await page.getByRole('button', { name: '5m' }).click();
	await expect(page).toHaveURL(/range=5m/);
	await expect(card('Running capsules', 'Now')).toHaveText('1');
	await expect(card('Reserved memory', 'Now')).toHaveText('512 MiB');
	await expect(page.getByText('Live', { exact: true })).toBeVisible();
	await expect(page.getByRole('img', { name: 'Running capsules: now 1, at most 1' })).toBeVisible();

	// A sample of it is kept, apart from what is counted at the moment of the question, which is the last point.
	const kept = async () => {
		const { series } = await person.call('GET', '/v1/sandboxes/stats?range=5m');
		return series.running.filter((count: number | null) => count === 1).length;
	};
	await expect.poll(kept).toBeGreaterThan(1);

	// Nobody loads the page again.
	await person.call('POST', `/v1/sandboxes/${first}/pause`);
	await expect(card('Running capsules', 'Now')).toHaveText('0', { timeout: 60_000 });
	await expect(card('Reserved memory', 'Now')).toHaveText('256 MiB');
	await expect(card('Running capsules', 'Peak')).toHaveText('1');
	await expect(card('Reserved vCPUs', 'Peak')).toHaveText('1');

	// The address is all that is needed to see the same again.
	for (const range of ['1h', '6h', '24h', '30d']) {
		await page.getByRole('button', { name: range }).click();
		await expect(page).toHaveURL(new RegExp(`range=${range}`));
		await page.reload();
		await expect(page.getByRole('button', { name: range })).toHaveAttribute('aria-pressed', 'true');
		await expect(card('Running capsules', 'Peak')).toHaveText('1');
	}

	// What it ran for is counted, and can be taken along.
	await menu.getByRole('link', { name: 'Usage' }).click();
	const today = new Date().toISOString().slice(0, 10);
	const row = page.getByRole('table', { name: 'Usage by day' }).getByRole('row', { name: today });
	await expect(row).toContainText('min');
	await page.getByRole('button', { name: '7d' }).click();
	await expect(page).toHaveURL(/days=7d/);
	const saving = page.waitForEvent('download');
	await page.getByRole('button', { name: 'Save as CSV' }).click();
	const file = await saving;
	expect(file.suggestedFilename()).toMatch(/^usage-\d{4}-\d{2}-\d{2}-\d{4}-\d{2}-\d{2}\.csv$/);
	const chunks: Buffer[] = [];
	for await (const chunk of await file.createReadStream()) chunks.push(chunk as Buffer);
	const lines = Buffer.concat(chunks).toString().trim().split('\r\n');
	expect(lines[0]).toBe('date,cpu_minutes,memory_mb_minutes');
	const [day, cpu, memory] = lines.at(-1)!.split(',');
	expect(day).toBe(today);
	expect(Number(cpu)).toBeGreaterThan(0);
	expect(Number(memory) / Number(cpu)).toBeCloseTo(512, 3);
});
