// Asking again and again, no oftener than is of use: not while nobody looks, slower the longer an answer takes and while nothing
// changes, slower still while the platform does not answer, at once when the page is looked at again.

export interface Pace {
	/** Milliseconds between an answer and the next question, while things change. */
	busy: number;
	/** The same while nothing does. */
	calm: number;
}

const LIMIT = 30_000;

/** The pause before the next question. Pure, for the test. */
export function pause(pace: Pace, state: { failures: number; isBusy: boolean; took: number }): number {
	const base = state.isBusy ? pace.busy : pace.calm;
	// A question that takes long to answer is a burden: at most a tenth of the time is spent on it.
	const fair = Math.max(base, state.took * 9);
	return Math.min(LIMIT, fair * 2 ** Math.min(state.failures, 5));
}

/** Calls `ask` until the returned function is called. `ask` tells whether things are changing. */
export function poll(pace: Pace, ask: () => Promise<boolean>): { stop: () => void; now: () => void } {
	let timer: ReturnType<typeof setTimeout> | undefined;
	let isAsking = false;
	let isStopped = false;
	let again = false;
	let failures = 0;

	async function turn() {
		clearTimeout(timer);
		if (isStopped || document.hidden) return;
		if (isAsking) {
			again = true;
			return;
		}
		isAsking = true;
		const started = performance.now();
		let isBusy = false;
		try {
			isBusy = await ask();
			failures = 0;
		} catch {
			// Whoever asks shows it.
			failures += 1;
		}
		isAsking = false;
		const wait = again ? 0 : pause(pace, { failures, isBusy, took: performance.now() - started });
		again = false;
		if (!isStopped) timer = setTimeout(turn, wait);
	}

	const looked = () => void turn();
	document.addEventListener('visibilitychange', looked);
	window.addEventListener('online', looked);
	void turn();
	return {
		stop() {
			isStopped = true;
			clearTimeout(timer);
			document.removeEventListener('visibilitychange', looked);
			window.removeEventListener('online', looked);
		},
		now: looked
	};
}
