// What just happened, told in passing. A failure stays until it is dismissed.

import { asFailure } from './listing.svelte';

export interface Toast {
	id: number;
	kind: 'done' | 'failed';
	text: string;
	requestId?: string;
}

const SHOWN = 5000;

class Toasts {
	all = $state<Toast[]>([]);
	#last = 0;

	done(text: string) {
		const id = this.#add({ kind: 'done', text });
		setTimeout(() => this.dismiss(id), SHOWN);
	}

	failed(error: unknown, what?: string) {
		const failure = asFailure(error);
		const text = what ? `${what}: ${failure.message}` : failure.message;
		this.#add({ kind: 'failed', text, requestId: failure.requestId });
	}

	dismiss(id: number) {
		this.all = this.all.filter((toast) => toast.id !== id);
	}

	#add(toast: Omit<Toast, 'id'>): number {
		const id = ++this.#last;
		this.all = [...this.all.slice(-3), { ...toast, id }];
		return id;
	}
}

export const toasts = new Toasts();
