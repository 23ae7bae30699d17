// The way to one terminal in a capsule. It is found again by its tag, from the byte on that was shown last: a connection that breaks loses
// nothing, as far as the guest keeps it.

import type { Schemas } from '$lib/api/client';

type Said = Schemas['PtyServerMessage'];
type Saying = Schemas['PtyClientMessage'];

export type LinkState =
	| { kind: 'connecting' }
	| { kind: 'open' }
	/** Broken; another try follows. */
	| { kind: 'waiting'; why: string }
	/** The capsule does not run: it goes on when that does. */
	| { kind: 'asleep' }
	/** What ran in it has ended, if that is known with its exit code. */
	| { kind: 'ended'; code: number | null }
	| { kind: 'refused'; why: string };

export interface LinkEnds {
	open(): WebSocket;
	size(): { cols: number; rows: number };
	state(state: LinkState): void;
	output(data: Uint8Array): void;
	/** Bytes that the guest no longer had. */
	dropped(count: number): void;
}

const FIRST_WAIT = 500;
const LONGEST_WAIT = 10_000;

export class TerminalLink {
	#socket: WebSocket | null = null;
	#timer: ReturnType<typeof setTimeout> | undefined;
	#failures = 0;
	/** How many bytes it has shown. */
	#next = 0;
	#isAwake = false;
	#isOpen = false;
	#wasOpen = false;
	#isOver = false;
	/** How the next connection begins: a start whose answer was lost may have made the terminal, so that one comes back to it. */
	#begin: 'start' | 'connect';
	/** How this one began. */
	#began: 'start' | 'connect';

	constructor(
		private readonly tag: string,
		history: 'new' | 'known',
		private readonly ends: LinkEnds
	) {
		this.#begin = this.#began = history === 'known' ? 'connect' : 'start';
	}

	/** The capsule runs, or it does not. */
	wake(isAwake: boolean) {
		this.#isAwake = isAwake;
		if (this.#isOver) return;
		if (isAwake) {
			this.#failures = 0;
			this.#connect();
		} else {
			this.#drop();
			this.ends.state({ kind: 'asleep' });
		}
	}

	/** What is typed while nobody is there to hear it is lost, and not kept for a moment in which it means another thing. */
	type(data: string) {
		this.#say({ type: 'input', data });
	}

	/** The same of bytes. */
	typeBytes(bytes: string) {
		this.#say({ type: 'input', data: btoa(bytes), encoding: 'base64' });
	}

	resize() {
		this.#say({ type: 'resize', ...this.ends.size() });
	}

	kill() {
		this.#say({ type: 'kill' });
	}

	close() {
		this.#isOver = true;
		this.#drop();
	}

	#say(message: Saying) {
		if (this.#isOpen) this.#socket?.send(JSON.stringify(message));
	}

	#connect() {
		clearTimeout(this.#timer);
		if (this.#isOver || !this.#isAwake || this.#socket) return;
		this.ends.state({ kind: 'connecting' });
		const socket = this.ends.open();
		this.#socket = socket;
		const isCurrent = () => this.#socket === socket;
		socket.onopen = () => isCurrent() && socket.send(JSON.stringify(this.#hello()));
		socket.onmessage = (event) => isCurrent() && this.#hear(JSON.parse(event.data as string) as Said);
		socket.onclose = () => isCurrent() && this.#lose('The connection broke off.');
	}

	#hello(): Saying {
		this.#began = this.#begin;
		this.#begin = 'connect';
		if (this.#began === 'connect') return { type: 'connect', tag: this.tag, from: this.#next };
		return { type: 'start', tag: this.tag, args: [], env: {}, ...this.ends.size() };
	}

	#hear(said: Said) {
		switch (said.type) {
			case 'start':
				this.#isOpen = true;
				this.#wasOpen = true;
				this.#failures = 0;
				this.ends.state({ kind: 'open' });
				// It may have been opened by a window of another size.
				this.resize();
				break;
			case 'output': {
				const data = bytesOf(said);
				if (said.dropped) this.ends.dropped(said.dropped);
				this.#next = said.offset + data.length;
				this.ends.output(data);
				break;
			}
			case 'exit':
				this.#end({ kind: 'ended', code: said.exit_code });
				break;
			case 'error':
				this.#fail(said.code, said.data);
		}
	}

	#fail(code: string, why: string) {
		if (code === 'not_found' && this.#began === 'connect') {
			// It ended while nobody looked.
			if (this.#wasOpen) return this.#end({ kind: 'ended', code: null });
			this.#begin = 'start';
			this.#drop();
			return this.#connect();
		}
		if (code === 'invalid_request') return this.#end({ kind: 'refused', why });
		this.#lose(why);
	}

	#lose(why: string) {
		this.#drop();
		if (this.#isOver || !this.#isAwake) return;
		this.ends.state({ kind: 'waiting', why });
		this.#timer = setTimeout(() => this.#connect(), Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** this.#failures));
		this.#failures = Math.min(this.#failures + 1, 10);
	}

	#end(state: LinkState) {
		this.close();
		this.ends.state(state);
	}

	#drop() {
		clearTimeout(this.#timer);
		const socket = this.#socket;
		this.#socket = null;
		this.#isOpen = false;
		socket?.close();
	}
}

function bytesOf({ data, encoding }: { data: string; encoding?: string }): Uint8Array {
	if (encoding !== 'base64') return new TextEncoder().encode(data);
	return Uint8Array.from(atob(data), (byte) => byte.charCodeAt(0));
}
