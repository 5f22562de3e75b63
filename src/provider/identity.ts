/** Who we are to GitLab, and who a guest is to us. */

import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { readTokenFile } from '../config/index.ts';
import { createVmToken } from '../leases/index.ts';
import { writeDurably } from '../lib/files.ts';
import { type Randomness, randomName } from '../lib/random.ts';

/**
 * This host's `system_id`: stable for its state directory, distinct between hosts. The runner's own
 * form is `s_` or `r_` and twelve characters.
 */
export async function loadSystemId(stateDir: string, source: Randomness): Promise<string> {
  const file = path.join(stateDir, 'system-id');
  await mkdir(stateDir, { recursive: true, mode: 0o700 });
  const known = await readFile(file, 'utf8').catch(() => '');
  if (/^r_[a-z0-9]{12}$/.test(known.trim())) return known.trim();
  const made = `r_${randomName(source, 12)}`;
  await writeDurably(file, `${made}\n`);
  return made;
}

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
