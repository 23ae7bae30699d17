import { expect, it } from 'vitest';
import { listeners, portUrl } from './listeners';

const TCP = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 1 1 0 100 0 0 10 0
   1: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 2 1 0 100 0 0 10 0
   2: 0200A8C0:1F90 0100A8C0:C350 01 00000000:00000000 00:00000000 00000000  1000        0 3 1 0 100 0 0 10 0
   3: 00000000:C33F 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4 1 0 100 0 0 10 0
`;
const TCP6 = `  sl  local_address                         remote_address                        st tx_queue
   0: 00000000000000000000000000000000:0BB8 00000000000000000000000000000000:0000 0A 00000000:00000000
   1: 00000000000000000000000001000000:1388 00000000000000000000000000000000:0000 0A 00000000:00000000
`;

it('finds what listens, and where it is open to more than the loopback', () => {
	expect(listeners(TCP)).toEqual([
		{ port: 3000, isLoopback: true },
		{ port: 8080, isLoopback: false }
	]);
	expect(listeners(TCP, TCP6)).toEqual([
		{ port: 3000, isLoopback: false },
		{ port: 5000, isLoopback: true },
		{ port: 8080, isLoopback: false }
	]);
	expect(listeners('')).toEqual([]);
});

it('names a port by the domain, and on its own machine without one', () => {
	const at = (page: string, domain: string | null) => portUrl(new URL(page), domain, 'sb-1', 80);
	expect(at('http://127.0.0.1:8080/dashboard', 'sbx.test:8443')).toBe('https://80-sb-1.sbx.test:8443/');
	expect(at('http://127.0.0.1:8080/dashboard', null)).toBe('http://80-sb-1.localhost:8080/');
	expect(at('http://192.0.2.1:8080/dashboard', null)).toBeNull();
});
