/** The least that asking costs in Node: the same calls by `node:http`, and nothing else. */

import http from 'node:http';

export interface Asks {
  readonly url: string;
  /** Of the runners, each of which asks every 3 s. */
  readonly tokens: readonly string[];
}

const INTERVAL_MS = 3000;

process.on('message', ({ url, tokens }: Asks) => {
  const agent = new http.Agent({ keepAlive: true });
  for (const token of tokens) {
    const body = JSON.stringify({ token, system_id: 's_bench', info: { name: 'bench' } });
    const ask = (): void => {
      const headers = { 'content-type': 'application/json' };
      const request = http.request(`${url}/api/v4/jobs/request`, {
        method: 'POST',
        agent,
        headers,
      });
      request.once('response', (response) => response.resume());
      // Its server may have closed the connection that it was given: the next one is as good.
      request.once('error', () => undefined);
      request.once('close', () => void setTimeout(ask, INTERVAL_MS));
      request.end(body);
    };
    ask();
  }
});
process.on('disconnect', () => process.exit());
