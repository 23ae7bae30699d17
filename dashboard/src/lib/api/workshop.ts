// Where templates are kept and made: a team's, or the platform's, where the builds of every team are in sight. The pages are the same ones.

import type { Build } from '$lib/builds';
import type { Source } from '$lib/state/listing.svelte';
import { api, ask, type Schemas, type Snapshot } from './client';

export interface Workshop {
	isPlatform: boolean;
	/** The addresses of its pages. */
	pages: { templates: string; builds: string };
	templates: Source<Snapshot>;
	deleteTemplate(name: string): Promise<unknown>;
	builds: Source<Build>;
	build(body: Schemas['CreateBuild']): Promise<Build>;
	cancel(id: string): Promise<Build>;
	/** Where a build tells of itself as it goes on. */
	progress(id: string): string;
}

const page = (limit: number, cursor?: string) => ({ params: { query: { limit, cursor } } });
const named = (name: string) => ({ params: { path: { name } } });
const at = (id: string) => ({ params: { path: { id } } });

export const OF_TEAM: Workshop = {
	isPlatform: false,
	pages: { templates: '/dashboard/snapshots', builds: '/dashboard/builds' },
	templates: (cursor) => api.GET('/v1/snapshots', page(100, cursor)),
	deleteTemplate: (name) => ask(api.DELETE('/v1/snapshots/{name}', named(name))),
	builds: (cursor) => api.GET('/v1/builds', page(50, cursor)),
	build: (body) => ask(api.POST('/v1/builds', { body })),
	cancel: (id) => ask(api.POST('/v1/builds/{id}/cancel', at(id))),
	progress: (id) => `/v1/builds/${id}/logs/stream`
};

export const OF_PLATFORM: Workshop = {
	isPlatform: true,
	pages: { templates: '/dashboard/admin/templates', builds: '/dashboard/admin/builds' },
	templates: (cursor) => api.GET('/v1/admin/templates', page(100, cursor)),
	deleteTemplate: (name) => ask(api.DELETE('/v1/admin/templates/{name}', named(name))),
	builds: (cursor) => api.GET('/v1/admin/builds', page(50, cursor)),
	build: (body) => ask(api.POST('/v1/admin/builds', { body })),
	cancel: (id) => ask(api.POST('/v1/admin/builds/{id}/cancel', at(id))),
	progress: (id) => `/v1/admin/builds/${id}/logs/stream`
};
