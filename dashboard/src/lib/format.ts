// Numbers, times and ids as people read them. Pure.

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function bytes(count: number): string {
	let unit = 0;
	let value = count;
	while (value >= 1024 && unit < UNITS.length - 1) {
		value /= 1024;
		unit += 1;
	}
	const digits = unit === 0 || value >= 100 ? 0 : 1;
	return `${value.toFixed(digits).replace(/\.0$/, '')} ${UNITS[unit]}`;
}

export const megabytes = (count: number) => bytes(count * 1024 * 1024);

/** 90 -> "1 m 30 s": the two largest parts. */
export function duration(seconds: number): string {
	const parts: [number, string][] = [
		[86_400, 'd'],
		[3600, 'h'],
		[60, 'm'],
		[1, 's']
	];
	let rest = Math.max(0, Math.round(seconds));
	const said: string[] = [];
	for (const [size, name] of parts) {
		const count = Math.floor(rest / size);
		rest -= count * size;
		if (count > 0) said.push(`${count} ${name}`);
		else if (said.length > 0) break;
	}
	return said.slice(0, 2).join(' ') || '0 s';
}

/** How long ago, or how far ahead. */
export function relative(moment: string, now: number): string {
	const seconds = (now - Date.parse(moment)) / 1000;
	if (Math.abs(seconds) < 5) return 'now';
	const far =
		Math.abs(seconds) >= 60
			? duration(seconds < 0 ? -seconds : seconds)
					.split(' ')
					.slice(0, 2)
					.join(' ')
			: null;
	const amount = far ?? `${Math.round(Math.abs(seconds))} s`;
	return seconds > 0 ? `${amount} ago` : `in ${amount}`;
}

/** Local time to the second, in an order that sorts. */
export function moment(text: string): string {
	const date = new Date(text);
	const two = (value: number) => String(value).padStart(2, '0');
	const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
	return `${day} ${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

export const clock = (time: number) => moment(new Date(time).toISOString()).slice(11, 16);

export const percent = (value: number) => `${value >= 10 ? Math.round(value) : Math.round(value * 10) / 10} %`;

export const count = (value: number) => value.toLocaleString('en-US');

/** The end of an id tells two apart; its beginning is the time it was made. What is a name in place of an id stays whole. */
export function shortId(id: string): string {
	const found = /^([a-z]+)(?:-[0-9a-f]{4,12}){4}-([0-9a-f]{12})$/.exec(id);
	return found ? `${found[1]}-…${found[2]}` : id;
}

/** "a=1, b=2" and the other way round. */
export function pairs(entries: Record<string, string>): string {
	return Object.entries(entries)
		.map(([key, value]) => `${key}=${value}`)
		.join(', ');
}

/** Lines or commas of `key=value`, or lines alone; a text that says what is wrong where it is not. */
export function parsePairs(text: string, between = /[\n,]/): Record<string, string> | string {
	const found: Record<string, string> = {};
	for (const line of list(text, between)) {
		const at = line.indexOf('=');
		if (at < 1) return `“${line}” is not key=value`;
		found[line.slice(0, at).trim()] = line.slice(at + 1).trim();
	}
	return found;
}

/** The words of a list that people typed: by lines, commas or blanks at its ends. */
export function list(text: string, between = /[\n,]/): string[] {
	return text
		.split(between)
		.map((word) => word.trim())
		.filter((word) => word !== '');
}

/** Minutes of which there may be very many: 0.4 -> "0.4 min", 90 -> "90 min", 600 -> "10 h", 120000 -> "2,000 h". */
export function minutes(value: number): string {
	const short = (value: number) =>
		(value < 10 ? Math.round(value * 10) / 10 : Math.round(value)).toLocaleString('en-US');
	return value < 300 ? `${short(value)} min` : `${short(value / 60)} h`;
}
