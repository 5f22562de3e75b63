/** Calls to a host's control socket, and to the proxy that its guests talk to. */

import http from 'node:http';

/** Rejects unless the host says yes. */
export async function post(socketPath: string, target: string): Promise<void> {
  const status = await call({ socketPath, path: target, method: 'POST' });
  if (status >= 300) throw new Error(`${target} on ${socketPath} was answered ${status}`);
}

/** Whether a VM token still opens anything: the proxy knows no path like this, and tells only those who have one. */
export async function opens(port: number, vmToken: string): Promise<boolean> {
  return (await call({ host: '127.0.0.1', port, path: `/${vmToken}/api/v4/chaos` })) !== 403;
}

const ANSWER_MS = 15_000;

function call(options: http.RequestOptions): Promise<number> {
  return new Promise((resolve, reject) => {
    const request = http.request({
      ...options,
      headers: { host: 'localhost', connection: 'close' },
      agent: false,
      timeout: ANSWER_MS,
    });
    request.once('response', (response) => {
      response.resume();
      resolve(response.statusCode ?? 0);
    });
    request.once('timeout', () => request.destroy(new Error(`no answer to ${options.path}`)));
    request.once('error', reject);
    request.end();
  });
}
