/** Calls to a host's control socket, and to the proxy that its guests talk to. */

import { ask } from '../../fixtures/testing/ask.ts';

const ANSWER_MS = 15_000;

/** Rejects unless the host says yes. */
export async function post(socketPath: string, path: string): Promise<void> {
  const { status } = await ask({ socketPath, path, method: 'POST', timeout: ANSWER_MS });
  if (status >= 300) throw new Error(`${path} on ${socketPath} was answered ${status}`);
}

/** Whether a VM token still opens anything: the proxy knows no path like this, and tells only those who have one. */
export async function opens(port: number, vmToken: string): Promise<boolean> {
  const { status } = await ask({ port, path: `/${vmToken}/api/v4/chaos`, timeout: ANSWER_MS });
  return status !== 403;
}
