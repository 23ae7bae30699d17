// Before the first paint, so that a light page is never dark for a moment.
try {
	document.documentElement.dataset.theme = localStorage.getItem('theme') === 'light' ? 'light' : 'dark';
} catch {
	// No storage: the dark one.
}
