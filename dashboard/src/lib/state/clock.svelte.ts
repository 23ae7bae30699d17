// The time, for "3 s ago": one timer for the whole page.

class Clock {
	now = $state(Date.now());

	constructor() {
		if (typeof window !== 'undefined') setInterval(() => (this.now = Date.now()), 1000);
	}
}

export const clock = new Clock();
