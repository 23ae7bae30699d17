// What is inside a capsule, by its page: a terminal, files, processes, ports. On a real one.

import { readFile } from 'node:fs/promises';
import { expect, firstPerson, shortId, signIn, signUp, test, type Person } from './world';
import type { Locator, Page } from '@playwright/test';

/** What the terminal shows. */
const screen = (page: Page) => page.locator('.xterm-rows');

async function exec(person: Person, id: string, script: string): Promise<string> {
	const done = await person.call('POST', `/v1/sandboxes/${id}/exec`, { cmd: 'bash', args: ['-c', script] });
	expect(done.exit_code, done.stderr).toBe(0);
	return done.stdout;
}

test('a terminal is typed into, found again with what it showed, and goes on after a pause', async ({
	page,
	request,
	watch
}) => {
	test.setTimeout(300_000);
	// Asked for in the moment of a change.
	watch.expectErrors(/status of 40[49]|WebSocket connection/);
	const person = await firstPerson(request);
	const id = await person.capsule({ task: 'terminal' });
	await signIn(page, person);
	await page.goto(`/dashboard/capsules/${id}`);
	await page.getByRole('link', { name: 'Terminal' }).click();
	await expect(page).toHaveURL(/\?tab=terminal$/);
	const connection = page.getByRole('status', { name: 'Connection' });
	await expect(connection).toHaveText('Connected');
	const input = page.getByRole('textbox', { name: 'Terminal input' });
	await expect(input).toBeFocused();
	// Answered when the shell has read all that came before; colours beyond the sixteen are styles of elements.
	await page.keyboard.type('printf "\\e[38;2;250;120;10mtwice %s\\e[0m\\n" $((21*2)); cd /tmp; tty > seen\n');
	await expect(screen(page)).toContainText('twice 42');
	await expect(screen(page).getByText('twice 42')).toHaveCSS('color', 'rgb(250, 120, 10)');

	// The guest knows how large the window is.
	let asked = 0;
	const columns = async () => {
		asked += 7;
		await page.keyboard.type(`clear; echo "$((${asked} * 11)): $(tput cols) wide"\n`);
		const told = new RegExp(`${asked * 11}: (\\d+) wide`);
		await expect(screen(page)).toContainText(told);
		return Number(told.exec((await screen(page).textContent()) ?? '')?.[1]);
	};
	const wide = await columns();
	await page.setViewportSize({ width: 900, height: 800 });
	await expect.poll(columns).toBeLessThan(wide);
	await page.setViewportSize({ width: 1440, height: 900 });

	// Loaded anew, it is the same shell, in the same folder.
	await page.keyboard.type('clear; echo be"fore"\n');
	await expect(screen(page)).toContainText('before');
	await page.reload();
	await expect(screen(page)).toContainText('before');
	await expect(connection).toHaveText('Connected');
	await input.focus();
	await page.keyboard.type('pwd; [ "$(tty)" = "$(cat seen)" ] && echo "the sa"me\n');
	await expect(screen(page)).toContainText('/tmp');
	await expect(screen(page)).toContainText('the same');

	// A pause is told; what was read before goes on after it.
	await page.keyboard.type('clear; sleep 1; echo "la"ter\n');
	// The shell has read it all: what is on its way when a pause comes may be lost.
	await expect(screen(page)).not.toContainText('the same');
	await page.getByRole('button', { name: `Pause ${shortId(id)}` }).click();
	await expect(page.getByText('The capsule is paused. Resume it')).toBeVisible({ timeout: 90_000 });
	await expect(connection).toHaveText('Not connected');
	await page.getByRole('button', { name: `Resume ${shortId(id)}` }).click();
	await expect(connection).toHaveText('Connected', { timeout: 90_000 });
	await expect(screen(page)).toContainText('later');

	// The keyboard is not caught in it.
	await input.focus();
	await page.keyboard.press('Shift+Escape');
	await expect(page.getByRole('button', { name: 'End the shell' })).toBeFocused();
	await page.keyboard.press('Enter');
	await expect(connection).toContainText('The shell has ended');
	await page.getByRole('button', { name: 'Start another' }).click();
	await expect(connection).toHaveText('Connected');
	await page.keyboard.type('exit 3\n');
	await expect(connection).toHaveText('The shell has ended with 3');

	await person.call('DELETE', `/v1/sandboxes/${id}`);
	await expect(page.getByText('The capsule is gone')).toBeVisible();
});

test('files are looked through, uploaded, edited, kept from being overwritten, downloaded and deleted', async ({
	page,
	request,
	watch
}) => {
	test.setTimeout(240_000);
	watch.expectErrors(/status of 4(04|12)/);
	const person = await firstPerson(request);
	const id = await person.capsule({ task: 'files' });
	await exec(
		person,
		id,
		'mkdir -p ~/work/deep && ln -s /etc/hostname ~/work/link && head -c 3000000 /dev/zero > ~/work/big'
	);
	await signIn(page, person);
	await page.goto(`/dashboard/capsules/${id}?tab=files`);
	const files = page.getByRole('table', { name: 'Files' });
	const told = page.getByRole('status', { name: 'Messages' });
	await files.getByRole('link', { name: 'work' }).click();
	await expect(page).toHaveURL(/path=%2Fhome%2Fuser%2Fwork$/);
	await expect(files.getByRole('row', { name: 'big' })).toContainText('2.9 MiB');
	await expect(files.getByRole('row', { name: 'link' })).toContainText('→ /etc/hostname');
	await expect(files.getByRole('row').nth(1)).toContainText('deep');

	// Up: by the button, and dropped.
	const contents = 'one\ntwo\n';
	await page
		.locator('input[type=file]')
		.setInputFiles({ name: 'notes.txt', mimeType: '', buffer: Buffer.from(contents) });
	await expect(told).toContainText('notes.txt is uploaded');
	await page.getByRole('region', { name: 'Files' }).evaluate((panel) => {
		const dataTransfer = new DataTransfer();
		dataTransfer.items.add(new File([new Uint8Array(500_000).fill(7)], 'dropped.bin'));
		panel.dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true }));
	});
	await expect(files.getByRole('row', { name: 'dropped.bin' })).toContainText('488 KiB');
	expect(
		await exec(
			person,
			id,
			'cat ~/work/notes.txt; sha256sum < ~/work/dropped.bin; head -c 500000 /dev/zero | tr "\\0" "\\7" | sha256sum'
		)
	).toMatch(/^one\ntwo\n(\w{64}) {2}-\n\1 {2}-\n$/);
	// What is there is not replaced unasked.
	await page
		.locator('input[type=file]')
		.setInputFiles({ name: 'notes.txt', mimeType: '', buffer: Buffer.from('other') });
	await page.getByRole('dialog', { name: 'Replace notes.txt?' }).getByRole('button', { name: 'Cancel' }).click();
	expect(await exec(person, id, 'cat ~/work/notes.txt')).toBe(contents);

	// Edited; and once more, after the capsule did.
	await files.getByRole('button', { name: 'notes.txt', exact: true }).click();
	const editor = page.getByRole('dialog', { name: 'notes.txt' });
	const text = editor.getByRole('textbox', { name: 'Contents of notes.txt' });
	await expect(text).toHaveValue(contents);
	await text.fill('one\ntwo\nthree\n');
	await page.keyboard.press('Control+s');
	await expect(told).toContainText('notes.txt is saved');
	await exec(person, id, 'echo theirs >> ~/work/notes.txt');
	await text.fill('mine\n');
	await editor.getByRole('button', { name: 'Save' }).click();
	await expect(editor.getByRole('alert')).toContainText('changed or removed in the capsule since you opened it');
	await editor.getByRole('button', { name: 'Take what is there now' }).click();
	await expect(text).toHaveValue('one\ntwo\nthree\ntheirs\n');
	await text.fill('not saved');
	await page.keyboard.press('Escape');
	await editor.getByRole('button', { name: 'Discard it' }).click();
	await expect(editor).toHaveCount(0);
	expect(await exec(person, id, 'cat ~/work/notes.txt')).toBe('one\ntwo\nthree\ntheirs\n');
	await files.getByRole('button', { name: 'big', exact: true }).click();
	await expect(page.getByRole('dialog')).toContainText('too much to edit');
	await page.keyboard.press('Escape');

	// Down.
	const downloads = page.waitForEvent('download');
	await files.getByRole('button', { name: 'Download dropped.bin' }).click();
	const kept = await downloads;
	expect(kept.suggestedFilename()).toBe('dropped.bin');
	expect((await readFile(await kept.path())).equals(Buffer.alloc(500_000, 7))).toBe(true);

	// A folder made, gone into, and left by its address.
	await page.getByRole('button', { name: 'New folder' }).click();
	await page.getByRole('dialog').getByLabel('Name').fill('a b');
	await page.getByRole('button', { name: 'Make it' }).click();
	await files.getByRole('link', { name: 'a b' }).click();
	await expect(page.getByText('This folder is empty')).toBeVisible();
	await page.getByRole('navigation', { name: 'Folder' }).getByRole('link', { name: 'work' }).click();
	await files.getByRole('button', { name: 'Delete a b' }).click();
	await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
	await expect(told).toContainText('a b is deleted');
	await files.getByRole('button', { name: 'Delete notes.txt' }).click();
	await page.getByRole('dialog').getByRole('button', { name: 'Delete' }).click();
	await expect(files.getByRole('row', { name: 'notes.txt' })).toHaveCount(0);
	expect(await exec(person, id, 'ls ~/work')).toBe('big\ndeep\ndropped.bin\nlink\n');

	// What is not there is told with the request.
	await page.goto(`/dashboard/capsules/${id}?tab=files&path=%2Fnowhere`);
	await expect(page.getByRole('alert')).toContainText(/Request [0-9a-f-]{36}/);
});

test('of two who edit one file, the second is told, and chooses what becomes of it', async ({
	page,
	request,
	browser,
	watch
}) => {
	test.setTimeout(240_000);
	watch.expectErrors(/status of 4(04|12)/);
	const ann = await signUp(request, 'Ann');
	const bob = await signUp(request, 'Bob');
	await ann.call('POST', `/v1/teams/${ann.team}/members`, { email: bob.email });
	const id = await ann.capsule({ task: 'shared' });
	await exec(ann, id, 'echo first > ~/shared.txt');
	await signIn(page, ann);
	const other = await browser.newContext();
	const his = await other.newPage();
	await signIn(his, bob);
	await his.getByRole('button', { name: /^Team:/ }).click();
	await his.getByRole('button', { name: /^Ann's Team/ }).click();
	await expect(his.getByRole('button', { name: "Team: Ann's Team" })).toBeVisible();

	const open = async (page: Page) => {
		await page.goto(`/dashboard/capsules/${id}?tab=files`);
		await page.getByRole('button', { name: 'shared.txt', exact: true }).click();
		return page.getByRole('dialog', { name: 'shared.txt' });
	};
	const [hers, theirs] = [await open(page), await open(his)];
	const text = (editor: Locator) => editor.getByRole('textbox', { name: 'Contents of shared.txt' });
	const save = (editor: Locator) => editor.getByRole('button', { name: 'Save', exact: true }).click();
	const told = (page: Page) => page.getByRole('status', { name: 'Messages' });
	await expect(text(hers)).toHaveValue('first\n');
	await expect(text(theirs)).toHaveValue('first\n');

	// He is first; what she has is not lost.
	await text(theirs).fill('his\n');
	await save(theirs);
	await expect(told(his)).toContainText('shared.txt is saved');
	await text(hers).fill('hers\n');
	await save(hers);
	await expect(hers.getByRole('alert')).toContainText('changed or removed in the capsule since you opened it');
	expect(await exec(ann, id, 'cat ~/shared.txt')).toBe('his\n');
	await hers.getByRole('button', { name: 'Save as …' }).click();
	await hers.getByLabel('Name of the copy').fill('shared.txt');
	await hers.getByRole('button', { name: 'Save the copy' }).click();
	await expect(hers.getByRole('alert')).toContainText('There is a shared.txt already.');
	await hers.getByLabel('Name of the copy').fill('hers.txt');
	await hers.getByRole('button', { name: 'Save the copy' }).click();
	await expect(told(page)).toContainText('hers.txt is saved');
	await expect(page.getByRole('table', { name: 'Files' })).toContainText('hers.txt');
	expect(await exec(ann, id, 'cat ~/shared.txt ~/hers.txt')).toBe('his\nhers\n');

	// He goes on from what he saved, also when its rights alone have changed; she overwrites what he has then.
	const again = await open(page);
	await expect(text(again)).toHaveValue('his\n');
	await exec(ann, id, 'chmod 600 ~/shared.txt');
	await text(theirs).fill('his, too\n');
	await save(theirs);
	await expect.poll(() => exec(ann, id, 'cat ~/shared.txt')).toBe('his, too\n');
	await text(again).fill('hers, too\n');
	await save(again);
	await again.getByRole('button', { name: 'Overwrite it' }).click();
	await expect(told(page)).toContainText('shared.txt is saved');
	expect(await exec(ann, id, 'cat ~/shared.txt')).toBe('hers, too\n');
	await text(theirs).fill('his again\n');
	await save(theirs);
	await theirs.getByRole('button', { name: 'Take what is there now' }).click();
	await expect(text(theirs)).toHaveValue('hers, too\n');
	await other.close();
});

test('processes are listed and killed, and what listens is found and reached', async ({ page, request, watch }) => {
	watch.expectErrors(/status of 40[49]/);
	const person = await firstPerson(request);
	const id = await person.capsule({ task: 'processes' });
	const server = 'setsid python3 -m http.server 8123 --bind 127.0.0.1 --directory /etc > /dev/null 2>&1 &';
	await exec(person, id, `${server} until curl -so /dev/null 127.0.0.1:8123; do sleep 0.1; done`);
	await signIn(page, person);
	await page.goto(`/dashboard/capsules/${id}?tab=terminal`);
	await expect(page.getByRole('status', { name: 'Connection' })).toHaveText('Connected');
	await page.getByRole('link', { name: 'Processes' }).click();
	const shell = page.getByRole('table', { name: 'Processes' }).getByRole('row', { name: '/bin/bash -i -l' });
	await expect(shell).toContainText(/page-[0-9a-f]{12}/);
	await shell.getByRole('button', { name: /^Kill/ }).click();
	await page.getByRole('dialog').getByRole('button', { name: 'Kill' }).click();
	await expect(page.getByText(/^Process \d+ is killed$/)).toBeVisible();
	await expect(page.getByText('Nothing was started from outside')).toBeVisible();
	await page.getByRole('button', { name: 'Look again' }).click();
	await expect(page.getByText('Nothing was started from outside')).toBeVisible();
	await page.getByRole('link', { name: 'Terminal' }).click();
	await expect(page.getByRole('status', { name: 'Connection' })).toContainText('The shell has ended');

	await page.getByRole('link', { name: 'Ports' }).click();
	const row = page.getByRole('table', { name: 'What listens' }).getByRole('row', { name: '8123' });
	await expect(row).toContainText('on the loopback');
	await expect(row).toContainText('with a key');
	const { domain } = await person.call('GET', `/v1/sandboxes/${id}`);
	await expect(row).toContainText(`https://8123-${id}.${domain}/`);
	await page.getByLabel('Port', { exact: true }).fill('70000');
	await expect(page.getByText('A port is a number')).toBeVisible();
	await page.getByLabel('Port', { exact: true }).fill('8123');
	const command = page.getByRole('region', { name: 'Command that reaches port 8123' });
	await expect(command).toContainText(`curl https://8123-${id}.${domain}/`);
	await expect(command).toContainText('X-API-Key');
	// A browser is let in to public ports alone.
	await expect(page.getByRole('link', { name: 'Open port 8123' })).toHaveCount(0);
	const open = await person.capsule({ task: 'public' }, { public_ports: [8123] });
	await page.goto(`/dashboard/capsules/${open}?tab=ports`);
	await expect(page.getByText('Nothing listens')).toBeVisible();
	await page.getByLabel('Port', { exact: true }).fill('8123');
	await expect(page.getByRole('link', { name: 'Open port 8123' })).toHaveAttribute(
		'href',
		`https://8123-${open}.${domain}/`
	);
});

test('a log is read as it comes, held, filtered, searched, downloaded, and is there while the capsule sleeps', async ({
	page,
	request
}) => {
	test.setTimeout(240_000);
	const person = await firstPerson(request);
	const id = await person.capsule({ task: 'logs' });
	await exec(person, id, 'echo first-line; printf "\\e[31mred-line\\e[0m\\n" >&2');
	await signIn(page, person);
	await page.goto(`/dashboard/capsules/${id}`);
	await page.getByRole('link', { name: 'Logs' }).click();
	await expect(page).toHaveURL(/\?tab=logs$/);
	const log = page.getByRole('log', { name: 'What happened' });
	const line = (text: string) => log.getByText(text, { exact: true });
	await expect(line('first-line')).toBeVisible();
	await expect(line('the sandbox was created')).toBeVisible();
	await expect(log.getByRole('paragraph').filter({ has: page.getByText('red-line', { exact: true }) })).toContainText(
		'warn'
	);
	await expect(line('red-line')).toBeVisible();

	// It comes by itself, unless it is held.
	await exec(person, id, 'echo second-line');
	await expect(line('second-line')).toBeVisible();
	await page.getByRole('button', { name: 'Hold' }).click();
	await exec(person, id, 'echo third-line');
	await page.getByRole('button', { name: /^Go on with \d+ more$/ }).click();
	await expect(line('third-line')).toBeVisible();

	await page.getByRole('combobox', { name: 'Show' }).selectOption('Warnings and errors');
	await expect(line('first-line')).toHaveCount(0);
	await expect(line('red-line')).toBeVisible();
	await page.getByRole('combobox', { name: 'Show' }).selectOption('Everything');
	await page.getByLabel('With the text').fill('FIRST');
	await expect(line('red-line')).toHaveCount(0);
	await expect(line('first-line')).toBeVisible();
	await page.getByLabel('With the text').fill('');
	await expect(line('red-line')).toBeVisible();

	const downloading = page.waitForEvent('download');
	await page.getByRole('button', { name: 'Download' }).click();
	const file = await downloading;
	expect(file.suggestedFilename()).toBe(`${id}.log`);
	const text = await readFile(await file.path(), 'utf8');
	expect(text).toMatch(/^\S+Z INFO {2}\[\d+\] first-line$/m);
	expect(text).toMatch(/^\S+Z WARN {2}\[\d+\] red-line$/m);

	await page.getByRole('button', { name: `Pause ${shortId(id)}` }).click();
	await expect(line('the sandbox was paused')).toBeVisible({ timeout: 90_000 });
	await page.reload();
	await expect(line('first-line')).toBeVisible();
	await person.call('DELETE', `/v1/sandboxes/${id}`);
	await expect(page.getByText('The capsule is gone')).toBeVisible();
});
