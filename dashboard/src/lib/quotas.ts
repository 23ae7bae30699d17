// What a team may have at the same time, as pages say it. Pure.

import type { Schemas } from './api/client';
import { count, megabytes } from './format';

export type Quotas = Schemas['TeamQuotas'];

export const RESOURCES = [
	{ word: 'sandboxes', name: 'Running capsules', unit: '', say: count },
	{ word: 'vcpus', name: 'vCPUs of those', unit: '', say: count },
	{ word: 'memory_mb', name: 'Memory of those', unit: ', MiB', say: megabytes },
	{ word: 'snapshots', name: 'Snapshots', unit: '', say: count },
	{ word: 'builds', name: 'Builds under way', unit: '', say: count },
	{ word: 'secrets', name: 'Secrets', unit: '', say: count },
	{ word: 'volumes', name: 'Volumes', unit: '', say: count },
	{ word: 'volume_mb', name: 'Size of those', unit: ', MiB', say: megabytes }
] as const;
