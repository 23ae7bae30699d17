// Where to go after signing in: a page of ours, whatever the address says.
export function nextPage(asked: string | null): string {
	return asked !== null && /^\/dashboard(\/|\?|$)/.test(asked) ? asked : '/dashboard/capsules/list';
}
