/** What guests talk to: one route per machine, keyed by its token, for one job. */

export { Held } from './held.ts';
export type { Limits as ProxyLimits } from './limits.ts';
export { createProxyServer, type ProxyServer } from './server.ts';
export type { ForwardedCall, ProxyServices } from './services.ts';
