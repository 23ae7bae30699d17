// What a build's page makes of what the platform says of it. Pure.

import type { Schemas } from './api/client';

export type Build = Schemas['Build'];
export type StepLog = Schemas['StepLog'];

export const hasEnded = (build: Build) => !['pending', 'running'].includes(build.status);

/** What steps wrote, with what one wrote since. Of an attempt that another one follows, nothing is left. */
export function withLog(logs: StepLog[], news: StepLog): StepLog[] {
	const own = logs.filter((log) => log.attempt === news.attempt);
	const at = own.findIndex((log) => log.step === news.step);
	if (at === -1) return [...own, news];
	const before = own[at]!;
	const whole = { ...news, stdout: before.stdout + news.stdout, stderr: before.stderr + news.stderr };
	return own.with(at, whole);
}

/** The list, newest first, with what it now begins with. */
export function freshened<T extends { id: string }>(list: T[], beginning: T[]): T[] {
	const ids = new Set(beginning.map((one) => one.id));
	return [...beginning, ...list.filter((one) => !ids.has(one.id))];
}

/** How far a build is, as people count. */
export function progress(build: Build): string {
	if (build.status === 'success') return `${build.total_steps} steps`;
	return `${build.current_step} of ${build.total_steps}`;
}

/** What a recipe itself starts from; null where it does not say. */
export const origin = (recipe: string) => /^[ \t]*FROM[ \t]+(\S+)/im.exec(recipe)?.[1] ?? null;

/** Whether a name that a recipe starts from is a registry's image: what there is decides about one that could be either's. */
export const isImage = (name: string, templates: readonly string[]) =>
	!name.startsWith('template:') && (/[/:]/.test(name) || !templates.includes(name));

export interface Fault {
	/** From 1. */
	line: number;
	text: string;
}

/** Which line of a recipe a refusal speaks of. */
export function recipeFault(message: string): Fault | null {
	const found = /^recipe: line (\d+): (.+)$/is.exec(message);
	return found ? { line: Number(found[1]), text: found[2]! } : null;
}

export interface Told {
	event: string;
	data: string;
}

/** Server-sent events of a text that comes in pieces. */
export class EventReader {
	#rest = '';

	/** The events that are complete with this piece. */
	push(piece: string): Told[] {
		const blocks = (this.#rest + piece).split('\n\n');
		this.#rest = blocks.pop()!;
		return blocks.map(eventOf).filter((told) => told.data !== '');
	}
}

function eventOf(block: string): Told {
	const fields = block.split('\n').map((line) => /^(\w*): ?(.*)$/.exec(line) ?? []);
	const values = (name: string) => fields.filter((field) => field[1] === name).map((field) => field[2]);
	return { event: values('event').at(-1) ?? 'message', data: values('data').join('\n') };
}
