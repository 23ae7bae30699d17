// xterm.js styles itself by `<style>` elements, which the content policy does not let in. The build puts these in their place
// (`build/strict-policy.ts`).

/** Looks to a script like a `<style>`; what is written into it becomes a stylesheet made by script, which the policy has no say in. */
export function styleElement(): HTMLElement {
	const element = document.createElement('template');
	const sheet = new CSSStyleSheet();
	document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
	Object.defineProperty(element, 'textContent', { set: (text: string) => sheet.replaceSync(text) });
	element.remove = () => {
		document.adoptedStyleSheets = document.adoptedStyleSheets.filter((one) => one !== sheet);
		HTMLElement.prototype.remove.call(element);
	};
	return element;
}
