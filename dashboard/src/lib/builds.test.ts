import { expect, it } from 'vitest';
import {
	EventReader,
	freshened,
	isImage,
	origin,
	progress,
	recipeFault,
	withLog,
	type Build,
	type StepLog
} from './builds';

const log = (fields: Partial<StepLog>): StepLog => ({
	attempt: 1,
	step: 1,
	cmd: 'RUN make',
	stdout: '',
	stderr: '',
	truncated: false,
	started_at: '2026-11-22T04:33:12Z',
	...fields
});

it('puts what a step wrote to what it wrote before', () => {
	let logs = withLog([], log({ stdout: 'one ' }));
	logs = withLog(logs, log({ step: 2, stderr: 'oh ' }));
	logs = withLog(logs, log({ stdout: 'two', exit_code: 0, duration_ms: 5 }));
	expect(logs.map((one) => [one.step, one.stdout, one.stderr, one.exit_code])).toEqual([
		[1, 'one two', '', 0],
		[2, '', 'oh ', undefined]
	]);
});

it('begins anew with another attempt', () => {
	const logs = withLog([log({ stdout: 'lost' }), log({ step: 2 })], log({ attempt: 2, stdout: 'kept' }));
	expect(logs.map((one) => one.stdout)).toEqual(['kept']);
});

it('freshens a list without losing its end', () => {
	const before = [3, 2, 1].map((n) => ({ id: `b${n}`, is: 'old' }));
	const after = freshened(before, [
		{ id: 'b4', is: 'new' },
		{ id: 'b3', is: 'new' }
	]);
	expect(after.map((one) => `${one.id} ${one.is}`)).toEqual(['b4 new', 'b3 new', 'b2 old', 'b1 old']);
});

it('knows what a recipe starts from', () => {
	expect(origin('# a comment\n  from python:3.13-slim\nRUN make')).toBe('python:3.13-slim');
	expect(origin('RUN echo FROM here')).toBeNull();
	const images = ['python:3.13-slim', 'ghcr.io/acme/tools', 'alpine', 'base', 'template:alpine'];
	expect(images.filter((name) => isImage(name, ['base', 'alpine-tools']))).toEqual(images.slice(0, 3));
});

it('tells how far a build is', () => {
	const build = { current_step: 2, total_steps: 5, status: 'running' } as Build;
	expect(progress(build)).toBe('2 of 5');
	expect(progress({ ...build, status: 'success' })).toBe('5 steps');
});

it('finds the line that a refusal speaks of', () => {
	expect(recipeFault('Recipe: line 12: WORKDIR needs something behind it.')).toEqual({
		line: 12,
		text: 'WORKDIR needs something behind it.'
	});
	expect(recipeFault('Name: at most 64 characters.')).toBeNull();
	expect(recipeFault('Recipe: step 2: no such user.')).toBeNull();
});

it('reads events wherever their text is cut', () => {
	const text = ': hello\n\nevent: log\ndata: {"a":"b: c"}\n\n:\n\nevent: build\ndata: 1\ndata: 2\n\nevent: cut';
	const expected = [
		{ event: 'log', data: '{"a":"b: c"}' },
		{ event: 'build', data: '1\n2' }
	];
	expect(new EventReader().push(text)).toEqual(expected);
	const reader = new EventReader();
	expect([...text].flatMap((letter) => reader.push(letter))).toEqual(expected);
});
