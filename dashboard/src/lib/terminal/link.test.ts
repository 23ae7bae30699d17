import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { TerminalLink, type LinkState } from './link';

/** The platform's end of a connection. */
class Socket {
	onopen = () => {};
	onmessage: (event: { data: string }) => void = () => {};
	onclose = () => {};
	heard: Record<string, unknown>[] = [];
	isClosed = false;

	send(text: string) {
		this.heard.push(JSON.parse(text));
	}

	close() {
		this.isClosed = true;
	}

	/** Is opened, and says these. */
	says(...messages: object[]) {
		for (const message of messages) this.onmessage({ data: JSON.stringify(message) });
	}
}

let sockets: Socket[];
let states: LinkState[];
let shown: string;
let dropped: number[];

const last = () => sockets.at(-1)!;

function link(history: 'new' | 'known') {
	return new TerminalLink('mine', history, {
		open: () => {
			sockets.push(new Socket());
			return last() as unknown as WebSocket;
		},
		size: () => ({ cols: 100, rows: 30 }),
		state: (state) => states.push(state),
		output: (data) => (shown += new TextDecoder().decode(data)),
		dropped: (count) => dropped.push(count)
	});
}

beforeEach(() => {
	vi.useFakeTimers();
	[sockets, states, shown, dropped] = [[], [], '', []];
});
afterEach(() => vi.useRealTimers());

it('comes back to where it was, counted in bytes', () => {
	const terminal = link('new');
	terminal.wake(true);
	last().onopen();
	expect(last().heard).toEqual([{ type: 'start', tag: 'mine', args: [], env: {}, cols: 100, rows: 30 }]);
	last().says(
		{ type: 'start', pid: 7, tag: 'mine' },
		{ type: 'output', data: 'für', offset: 0 },
		{ type: 'output', data: 'ww==', encoding: 'base64', offset: 4 }
	);
	terminal.type('ls\r');
	expect(last().heard.slice(1)).toEqual([
		{ type: 'resize', cols: 100, rows: 30 },
		{ type: 'input', data: 'ls\r' }
	]);
	last().onclose();
	expect(states.at(-1)!.kind).toBe('waiting');
	// Nobody hears this.
	terminal.type('rm -rf x\r');
	vi.advanceTimersByTime(600);
	last().onopen();
	last().says({ type: 'start', pid: 7 }, { type: 'output', data: 'later', offset: 105, dropped: 100 });
	expect(sockets).toHaveLength(2);
	expect(last().heard).toEqual([
		{ type: 'connect', tag: 'mine', from: 5 },
		{ type: 'resize', cols: 100, rows: 30 }
	]);
	expect(dropped).toEqual([100]);
	expect(shown).toContain('later');
});

it('tries less and less often', () => {
	link('new').wake(true);
	for (const [wait, tries] of [
		[500, 2],
		[1000, 3],
		[2000, 4]
	] as const) {
		last().onclose();
		vi.advanceTimersByTime(wait - 1);
		expect(sockets).toHaveLength(tries - 1);
		vi.advanceTimersByTime(1);
		expect(sockets).toHaveLength(tries);
	}
});

it('sleeps while the capsule does, and goes on when it does', () => {
	const terminal = link('new');
	terminal.wake(true);
	last().onopen();
	last().says({ type: 'start', pid: 7 }, { type: 'output', data: '$ ', offset: 0 });
	terminal.wake(false);
	expect(last().isClosed).toBe(true);
	expect(states.at(-1)).toEqual({ kind: 'asleep' });
	vi.advanceTimersByTime(60_000);
	expect(sockets).toHaveLength(1);
	terminal.wake(true);
	last().onopen();
	expect(last().heard).toEqual([{ type: 'connect', tag: 'mine', from: 2 }]);
});

it('begins anew where the one of before is gone, and says so where it ended under our eyes', () => {
	const terminal = link('known');
	terminal.wake(true);
	last().onopen();
	expect(last().heard).toEqual([{ type: 'connect', tag: 'mine', from: 0 }]);
	last().says({ type: 'error', code: 'not_found', data: 'gone' });
	last().onopen();
	expect(last().heard).toEqual([{ type: 'start', tag: 'mine', args: [], env: {}, cols: 100, rows: 30 }]);
	last().says({ type: 'start', pid: 8 });
	last().onclose();
	vi.advanceTimersByTime(600);
	last().onopen();
	last().says({ type: 'error', code: 'not_found', data: 'gone' });
	expect(states.at(-1)).toEqual({ kind: 'ended', code: null });
	vi.advanceTimersByTime(60_000);
	expect(sockets).toHaveLength(3);
});

it('finds what it started where the answer was lost, and ends with the shell', () => {
	link('new').wake(true);
	last().onopen();
	last().onclose();
	vi.advanceTimersByTime(600);
	last().onopen();
	expect(last().heard[0]).toEqual({ type: 'connect', tag: 'mine', from: 0 });
	last().says({ type: 'start', pid: 7 }, { type: 'exit', exit_code: 3 });
	expect(states.at(-1)).toEqual({ kind: 'ended', code: 3 });
	expect(last().isClosed).toBe(true);
});
