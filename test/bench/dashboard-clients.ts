/** Open dashboards, in a thread of their own: what they do must not count as the host's time. */

import http from 'node:http';
import { performance } from 'node:perf_hooks';
import { parentPort, workerData } from 'node:worker_threads';

export interface ClientsData {
  readonly url: string;
  readonly cookie: string;
  readonly count: number;
}

/** `open`: all are. `told`: all have heard of one change; when the last one did, and what each was sent. */
export type ClientsMessage =
  | { readonly type: 'open' }
  | { readonly type: 'told'; readonly at: number; readonly bytes: number };

const { url, cookie, count } = workerData as ClientsData;
const tell = (message: ClientsMessage): void => parentPort?.postMessage(message);

let open = 0;
let told = 0;
let bytes = 0;

for (let client = 0; client < count; client += 1) {
  http.get(url, { headers: { cookie }, agent: false }, (answer) => {
    let text = '';
    answer.setEncoding('utf8');
    answer.once('data', () => {
      open += 1;
      if (open === count) tell({ type: 'open' });
    });
    answer.on('data', (chunk: string) => {
      text += chunk;
      if (!text.endsWith('\n\n')) return;
      const isPatch = text.includes('event: patch');
      if (isPatch) bytes += text.length;
      text = '';
      if (!isPatch) return;
      told += 1;
      if (told < count) return;
      tell({ type: 'told', at: performance.timeOrigin + performance.now(), bytes: bytes / count });
      told = 0;
      bytes = 0;
    });
  });
}
