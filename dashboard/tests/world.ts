// What every test of a page stands on: people, made the way people come, and a watch over what no page may do.

import { once } from 'node:events';
import { connect } from 'node:net';
import { expect, test as base, type APIRequestContext, type Page } from '@playwright/test';
import { gateOf } from './apart/outside';

export const PASSWORD = 'correct horse battery';

/** Somebody, and their way to the API as a program. */
export class Person {
	constructor(
		readonly request: APIRequestContext,
		readonly email: string,
		readonly password: string,
		readonly token: string,
		readonly team: string
	) {}

	/** Calls the API and expects this status. */
	async call(method: string, path: string, body?: unknown, status?: number) {
		const headers = { authorization: `Bearer ${this.token}` };
		const answer = await this.request.fetch(path, { method, headers, data: body, timeout: 120_000 });
		const text = await answer.text();
		if (status === undefined) expect(answer.ok(), `${method} ${path}: ${answer.status()} ${text}`).toBe(true);
		else expect(answer.status(), text).toBe(status);
		return text === '' ? undefined : JSON.parse(text);
	}

	/** A capsule that goes with the test. */
	async capsule(metadata: Record<string, string> = {}, more: object = {}): Promise<string> {
		const { id } = await this.call('POST', '/v1/sandboxes', { metadata, ...more });
		afterwards(() => this.delete(`/v1/sandboxes/${id}`));
		return id;
	}

	/** What pages make for this task goes with the test too: capsules, and a snapshot of this name. */
	leavesNothingOf(task: string, snapshot: string) {
		afterwards(async () => {
			for (const row of await this.call('GET', '/v1/sandboxes?limit=200'))
				if (row.metadata.task === task) await this.delete(`/v1/sandboxes/${row.id}`);
			await this.delete(`/v1/snapshots/${snapshot}`);
		});
	}

	/** A template that pages make for the platform goes with the test. */
	leavesNoTemplate(name: string) {
		afterwards(() => this.delete(`/v1/admin/templates/${name}`));
	}

	/** Gone already is as good. */
	private async delete(path: string) {
		const headers = { authorization: `Bearer ${this.token}` };
		const answer = await this.request.delete(path, { headers, timeout: 120_000 });
		// A capsule that has ended is told of for a while.
		if (answer.status() === 409 && path.startsWith('/v1/sandboxes/'))
			return expect((await this.call('GET', path)).status, await answer.text()).toMatch(/^(stopped|error)$/);
		expect([200, 202, 204, 404], `DELETE ${path}: ${await answer.text()}`).toContain(answer.status());
	}
}

/** What is still to be done when a test is over, however it ended. */
const left: (() => Promise<void>)[] = [];
const afterwards = (act: () => Promise<void>) => void left.push(act);

export async function signUp(request: APIRequestContext, name: string): Promise<Person> {
	const email = `${name.toLowerCase()}-${Date.now().toString(36)}@example.org`;
	const answer = await request.post('/v1/auth/signup', { data: { email, password: PASSWORD, name } });
	expect(answer.status(), await answer.text()).toBe(201);
	const { token, team_id } = await answer.json();
	return new Person(request, email, PASSWORD, token, team_id);
}

/** The platform's first person, who administers it. */
export const firstPerson = (request: APIRequestContext) =>
	whoIs(request, process.env.SANDBAR_EMAIL!, process.env.SANDBAR_PASSWORD!);

/** Whose team has five thousand capsules, on a host that is simulated (`tests/e2e/simulated.rs`). */
export const crowd = (request: APIRequestContext) =>
	whoIs(request, process.env.SANDBAR_CROWD_EMAIL!, process.env.SANDBAR_CROWD_PASSWORD!);

async function whoIs(request: APIRequestContext, email: string, password: string): Promise<Person> {
	const answer = await request.post('/v1/auth/login', { data: { email, password } });
	expect(answer.status(), await answer.text()).toBe(200);
	const { token, team_id } = await answer.json();
	return new Person(request, email, password, token, team_id);
}

export async function signIn(page: Page, person: Person) {
	await page.goto('/login');
	await page.getByLabel('E-mail').fill(person.email);
	await page.getByLabel('Password').fill(person.password);
	await page.getByRole('button', { name: 'Sign in' }).click();
	await expect(page).toHaveURL(/\/dashboard\//);
	await expect(page.getByRole('navigation', { name: 'Main' })).toBeAttached();
}

/** Does something while the platform is gone, to the browser at least: what was open is cut, and nothing answers. */
export async function whileGone(act: () => Promise<void>) {
	const holder = connect(gateOf(process.env.SANDBAR_OUTSIDE!));
	await once(holder, 'data');
	try {
		await act();
	} finally {
		holder.destroy();
	}
}

export const shortId = (id: string) => `sb-…${id.split('-').at(-1)}`;

interface Watch {
	/** Console errors that the test brings about on purpose: answers that are no success. */
	expectErrors(pattern: RegExp): void;
}

/** A page that fails its test for any error in its console, and any request to elsewhere. */
export const test = base.extend<{ watch: Watch; tidy: void }>({
	tidy: [
		// The requests of people are made with it, so it has to be there still.
		async ({ request: _ }, use) => {
			await use();
			for (let act = left.pop(); act; act = left.pop()) await act();
		},
		{ auto: true, timeout: 180_000 }
	],
	watch: [
		async ({ page, baseURL }, use) => {
			const allowed: RegExp[] = [];
			const wrong: string[] = [];
			page.on('console', (message) => {
				if (message.type() === 'error' || message.type() === 'warning')
					wrong.push(`${message.type()}: ${message.text()} (${message.location().url})`);
			});
			page.on('pageerror', (error) => wrong.push(String(error)));
			page.on('request', (request) => {
				if (!/^(data|blob):/.test(request.url()) && new URL(request.url()).origin !== baseURL)
					wrong.push(`asks ${request.url()}`);
			});
			await use({ expectErrors: (pattern) => void allowed.push(pattern) });
			expect(wrong.filter((text) => !allowed.some((pattern) => pattern.test(text)))).toEqual([]);
		},
		{ auto: true }
	]
});

export { expect };
