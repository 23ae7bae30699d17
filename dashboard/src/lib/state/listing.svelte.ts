// Lists that come in pages.

import { askWhole, Failure } from '$lib/api/client';

export interface Page<T> {
	items: T[];
	next?: string;
}

/** Asks for a page of a list; the next one is named by a header of the answer. */
export type Source<T> = (cursor?: string) => Promise<{ data?: T[]; error?: unknown; response: Response }>;

export async function onePage<T>(source: Source<T>, cursor?: string): Promise<Page<T>> {
	const { data, response } = await askWhole(source(cursor));
	return { items: data, next: response.headers.get('x-next-cursor') ?? undefined };
}

/** All of it. */
export async function everyPage<T>(source: Source<T>): Promise<T[]> {
	const all: T[] = [];
	let cursor: string | undefined;
	do {
		const { items, next } = await onePage(source, cursor);
		all.push(...items);
		cursor = next;
	} while (cursor !== undefined);
	return all;
}

/** A list on the screen, which grows by a page at a time. */
export class Listing<T> {
	items = $state.raw<T[]>([]);
	failure = $state.raw<Failure | null>(null);
	isLoading = $state(false);
	/** Whether there was an answer yet. */
	isKnown = $state(false);
	#next: string | undefined = $state();
	#turn = 0;

	constructor(private readonly fetch: (cursor?: string) => Promise<Page<T>>) {}

	get hasMore() {
		return this.#next !== undefined;
	}

	/** From the beginning. What is shown stays until the answer is there. */
	reload = async () => this.#load(undefined, []);

	more = async () => {
		if (!this.isLoading && this.#next !== undefined) await this.#load(this.#next, this.items);
	};

	async #load(cursor: string | undefined, before: T[]) {
		const turn = ++this.#turn;
		this.isLoading = true;
		try {
			const page = await this.fetch(cursor);
			// Another question was asked meanwhile: this answers none.
			if (turn !== this.#turn) return;
			this.items = [...before, ...page.items];
			this.#next = page.next;
			this.failure = null;
			this.isKnown = true;
		} catch (error) {
			if (turn === this.#turn) this.failure = asFailure(error);
		} finally {
			if (turn === this.#turn) this.isLoading = false;
		}
	}
}

export function asFailure(error: unknown): Failure {
	if (error instanceof Failure) return error;
	console.error(error);
	return new Failure('page', 'This page has a fault.', -1);
}
