// Dark, or light by choice; `static/theme.js` applies the choice before the first paint.

type Name = 'dark' | 'light';

class Theme {
	name = $state<Name>(
		typeof document !== 'undefined' && document.documentElement.dataset.theme === 'light' ? 'light' : 'dark'
	);

	toggle = () => {
		this.name = this.name === 'dark' ? 'light' : 'dark';
		document.documentElement.dataset.theme = this.name;
		try {
			localStorage.setItem('theme', this.name);
		} catch {
			// Until the page is left, then.
		}
	};
}

export const theme = new Theme();
