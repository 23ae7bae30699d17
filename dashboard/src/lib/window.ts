// Which rows of a long list are worth drawing. Pure.

export interface Window {
	first: number;
	last: number;
}

/** Rows of `height` in a viewport of `view` scrolled to `top`, and some before and after, so that scrolling finds them drawn. */
export function windowOf(total: number, height: number, top: number, view: number, spare = 12): Window {
	const first = Math.max(0, Math.floor(top / height) - spare);
	const last = Math.min(total, Math.ceil((top + view) / height) + spare);
	return { first: Math.min(first, last), last };
}
