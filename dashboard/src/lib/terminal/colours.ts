// A terminal's colours: the page's own, and the sixteen that programs name, legible on its ground in either theme.

import type { ITheme } from '@xterm/xterm';

const DARK: ITheme = {
	black: '#283036',
	red: '#f48a7f',
	green: '#7bcf9c',
	yellow: '#e8c07d',
	blue: '#8bb8e8',
	magenta: '#d7a3e0',
	cyan: '#7fcfd0',
	white: '#c9c9c4',
	brightBlack: '#8a969c',
	brightRed: '#ffa79e',
	brightGreen: '#9be3b6',
	brightYellow: '#f5d69f',
	brightBlue: '#aed0f5',
	brightMagenta: '#e8c1ef',
	brightCyan: '#a3e4e4',
	brightWhite: '#f6f3ec'
};

const LIGHT: ITheme = {
	black: '#1b2023',
	red: '#a8301f',
	green: '#17683c',
	yellow: '#7d5308',
	blue: '#1f5896',
	magenta: '#7d3a8c',
	cyan: '#0c6669',
	white: '#575e5d',
	brightBlack: '#6a706c',
	brightRed: '#8c2415',
	brightGreen: '#0f5530',
	brightYellow: '#664304',
	brightBlue: '#164a82',
	brightMagenta: '#682b77',
	brightCyan: '#075457',
	brightWhite: '#2b3134'
};

export function colours(theme: 'dark' | 'light'): ITheme {
	const style = getComputedStyle(document.documentElement);
	const token = (name: string) => style.getPropertyValue(`--${name}`).trim();
	return {
		...(theme === 'dark' ? DARK : LIGHT),
		background: token('ground'),
		foreground: token('text'),
		cursor: token('accent'),
		cursorAccent: token('ground'),
		selectionBackground: token('line'),
		selectionForeground: token('text'),
		scrollbarSliderBackground: token('line'),
		scrollbarSliderHoverBackground: token('edge'),
		scrollbarSliderActiveBackground: token('edge')
	};
}
