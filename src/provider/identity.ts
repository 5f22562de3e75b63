/** Who a guest is to us. */

import { readTokenFile } from '../config/index.ts';
import { createVmToken } from '../leases/index.ts';
import { type Randomness, randomName } from '../lib/random.ts';

/** A fresh machine's name and token. The name follows Forrest's form, so that its tools know it. */
export async function newIdentity(
  runner: string,
  tokenFile: string | undefined,
  source: Randomness,
): Promise<{ readonly runnerName: string; readonly vmToken: string }> {
  const read = tokenFile === undefined ? undefined : await readTokenFile(tokenFile);
  // Without the real token only cache paths differ: no reason to lose a job.
  const runnerToken = read?.ok === true ? read.token : '';
  const slug = runner.toLowerCase().replace(/[^a-z0-9-]/g, '-');
  return {
    runnerName: `forrest-${slug}-${randomName(source, 16)}`,
    vmToken: createVmToken(runnerToken, source),
  };
}
