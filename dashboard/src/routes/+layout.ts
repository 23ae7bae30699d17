// Drawn in the browser alone: the platform serves files, and what they show comes from its API.
export const ssr = false;
export const prerender = false;
