// A capsule's log as its page shows it: which entries are held, and what is made of them. Pure.

import type { Schemas } from './api/client';

export type LogEntry = Schemas['LogEntry'];
export type Level = LogEntry['level'];

export const LEVELS: readonly Level[] = ['debug', 'info', 'warn', 'error'];

/** What a page holds of a log; of more the oldest goes. */
export const MOST = 5000;

/** What there is with what came, each once, oldest first. */
export function withNews(entries: LogEntry[], news: LogEntry[], most = MOST): LogEntry[] {
	const last = entries.length > 0 ? place(entries.at(-1)!) : 0;
	const fresh = news.filter((entry) => place(entry) > last);
	return fresh.length === 0 ? entries : [...entries, ...fresh].slice(-most);
}

/** What there is with what was before it; nothing where the page holds enough. */
export function withEarlier(entries: LogEntry[], newestFirst: LogEntry[], most = MOST): LogEntry[] {
	const first = entries.length > 0 ? place(entries[0]!) : Infinity;
	const earlier = newestFirst.filter((entry) => place(entry) < first).reverse();
	return [...earlier.slice(Math.max(0, earlier.length + entries.length - most)), ...entries];
}

const place = (entry: LogEntry) => Number(entry.id);

/** Whom an entry is about, in a word. */
export function about({ fields }: LogEntry): string {
	const { source, pid, tag } = fields;
	if (source === 'host') return 'host';
	if (pid === undefined) return 'agent';
	return tag ? `${tag} ${pid}` : pid;
}

// Colours and other commands to a terminal, and what else has no form.
const COMMANDS = /\u001b\[[0-9;:?]*[ -/]*[@-~]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)|\u001b[@-_]/g;
const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g;

/** A message as a page can show it. */
export const shown = (message: string) => message.replace(COMMANDS, '').replace(CONTROLS, '\ufffd');

/** An entry as a line of a file. */
export function asLine(entry: LogEntry): string {
	return `${entry.timestamp} ${entry.level.toUpperCase().padEnd(5)} [${about(entry)}] ${shown(entry.message)}`;
}

export const asText = (entries: LogEntry[]) => entries.map((entry) => `${asLine(entry)}\n`).join('');
