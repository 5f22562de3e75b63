/** What guests talk to: one route per machine, keyed by its token, for one job. */

export { Connections } from './connections.ts';
export { Held } from './held.ts';
export { createProxyServer, type ProxyServer } from './server.ts';
export type { ForwardedCall, ProxyServices } from './services.ts';
