// Contents of a capsule's files, on their way: what the typed client cannot do, since it knows no progress and no limit.

import { Failure, ownHeaders, refusal } from './client';

const at = (id: string, what: string) => `/v1/sandboxes/${id}/files/stream/${what}`;

/** What is in a file, and the word for that state of it, where the capsule tells one. */
export interface Contents {
	bytes: Blob;
	state?: string;
}

/** What must be there for a write to take place: a file in this state, or none. Otherwise it is refused as `precondition_failed`. */
export type Expected = { state: string } | 'nothing';

/** Reads a file, and no more of it than `limit` bytes: null where it has more. */
export async function readFile(
	id: string,
	path: string,
	how: { limit?: number; progress?: (bytes: number) => void; signal?: AbortSignal } = {}
): Promise<Contents | null> {
	const headers = { ...ownHeaders(), 'Content-Type': 'application/json' };
	const request = { method: 'POST', headers, body: JSON.stringify({ path }), signal: how.signal };
	const response = await fetch(at(id, 'read'), request).catch((error: unknown) => {
		throw isAborted(error) ? error : unreachable();
	});
	if (!response.ok) throw await refusal(response);
	const parts: Uint8Array<ArrayBuffer>[] = [];
	let bytes = 0;
	const reader = response.body!.getReader();
	try {
		for (let part = await reader.read(); !part.done; part = await reader.read()) {
			bytes += part.value.length;
			if (bytes > (how.limit ?? Infinity)) {
				await reader.cancel();
				return null;
			}
			parts.push(part.value);
			how.progress?.(bytes);
		}
	} catch (error) {
		// A part is never taken for the whole.
		throw isAborted(error) ? error : new Failure('unreachable', 'The connection broke off half way.', 0);
	}
	return { bytes: new Blob(parts), state: response.headers.get('etag') ?? undefined };
}

/** Writes a file, which appears whole or not at all, and tells its state then. Only this old way tells how far an upload is. */
export function writeFile(
	id: string,
	path: string,
	contents: Blob,
	how: { expected?: Expected; progress?: (bytes: number) => void; signal?: AbortSignal } = {}
): Promise<string | undefined> {
	return new Promise((resolve, reject) => {
		const request = new XMLHttpRequest();
		request.open('POST', `${at(id, 'write')}?path=${encodeURIComponent(path)}`);
		for (const [name, value] of Object.entries(ownHeaders())) request.setRequestHeader(name, value);
		request.setRequestHeader('Content-Type', 'application/octet-stream');
		if (how.expected === 'nothing') request.setRequestHeader('If-None-Match', '*');
		else if (how.expected) request.setRequestHeader('If-Match', how.expected.state);
		request.upload.onprogress = ({ loaded }) => how.progress?.(loaded);
		request.onload = async () => {
			if (request.status >= 200 && request.status < 300) return resolve(request.getResponseHeader('etag') ?? undefined);
			const id = request.getResponseHeader('x-request-id');
			const answer = new Response(request.responseText, {
				status: request.status,
				headers: id === null ? {} : { 'x-request-id': id }
			});
			reject(await refusal(answer));
		};
		request.onerror = () => reject(unreachable());
		request.onabort = () => reject(new DOMException('left', 'AbortError'));
		how.signal?.addEventListener('abort', () => request.abort());
		request.send(contents);
	});
}

export const isAborted = (error: unknown) => error instanceof DOMException && error.name === 'AbortError';
const unreachable = () => new Failure('unreachable', 'The platform does not answer.', 0);
