// Files on their way into a capsule and out of it: one after the other, each with how far it is, and with a way to stop it.

import type { Failure } from '$lib/api/client';
import { isAborted, readFile, writeFile, type Expected } from '$lib/api/transfer';
import { asFailure } from './listing.svelte';

export class Transfer {
	done = $state(0);
	failure = $state.raw<Failure | null>(null);
	#stop = new AbortController();

	constructor(
		readonly id: number,
		readonly way: 'up' | 'down',
		readonly name: string,
		/** Of a file that grows, what it had. */
		readonly total: number
	) {}

	/** How much of it, from 0 to 1. */
	get share() {
		return this.total === 0 ? 0 : Math.min(1, this.done / this.total);
	}

	get signal() {
		return this.#stop.signal;
	}

	stop = () => this.#stop.abort();
}

export class Transfers {
	/** Those under way, and those that failed until they are dismissed. */
	all = $state<Transfer[]>([]);
	#last = 0;
	#turn: Promise<unknown> = Promise.resolve();

	constructor(private readonly id: string) {}

	/** Whether it was written. */
	upload(file: File, path: string, expected?: Expected): Promise<boolean> {
		return this.#queue(new Transfer(++this.#last, 'up', file.name, file.size), async (one) => {
			const progress = (bytes: number) => (one.done = bytes);
			await writeFile(this.id, path, file, { expected, progress, signal: one.signal });
		});
	}

	/** Into the browser's own folder of downloads. */
	download(name: string, path: string, size: number): Promise<boolean> {
		return this.#queue(new Transfer(++this.#last, 'down', name, size), async (one) => {
			const contents = await readFile(this.id, path, {
				progress: (bytes) => (one.done = bytes),
				signal: one.signal
			});
			if (contents) keep(contents.bytes, name);
		});
	}

	dismiss(one: Transfer) {
		this.all = this.all.filter((other) => other.id !== one.id);
	}

	#queue(one: Transfer, act: (one: Transfer) => Promise<void>): Promise<boolean> {
		this.all = [...this.all, one];
		const run = async () => {
			try {
				one.signal.throwIfAborted();
				await act(one);
				this.dismiss(one);
				return true;
			} catch (error) {
				if (isAborted(error)) this.dismiss(one);
				else one.failure = asFailure(error);
				return false;
			}
		};
		const result = this.#turn.then(run);
		this.#turn = result;
		return result;
	}
}

const KEPT = 60_000;

function keep(contents: Blob, name: string) {
	const link = document.createElement('a');
	link.href = URL.createObjectURL(contents);
	link.download = name;
	link.click();
	// Some browsers read it a while later.
	setTimeout(() => URL.revokeObjectURL(link.href), KEPT);
}
