/** Who this host is to GitLab. */

import { createHash } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import type { Logger } from '../contract/index.ts';
import { ForrestGitlabError } from '../errors.ts';
import { describeError, errorCode } from '../lib/errors.ts';
import { writeDurably } from '../lib/files.ts';
import { type Randomness, randomName } from '../lib/random.ts';

/** Identifies an installation of Linux; a copy of the state directory does not bring it along. */
const MACHINE_ID = '/etc/machine-id';

/**
 * This host's `system_id`: stable for its state directory on this very host, distinct between hosts. The
 * runner's own form is `s_` or `r_` and twelve characters. A state directory that was copied to another host
 * gets another one: GitLab would take the two for one.
 */
export async function loadSystemId(
  stateDir: string,
  hostName: string,
  source: Randomness,
  log: Logger,
  machineIdFile: string = MACHINE_ID,
): Promise<string> {
  const file = path.join(stateDir, 'system-id');
  const bound = await fingerprint(hostName, machineIdFile);
  const [known = '', knownBound] = (await readIfThere(file)).split('\n');
  const isSound = /^r_[a-z0-9]{12}$/.test(known);
  if (isSound && knownBound === bound) return known;
  // An earlier version wrote the id alone.
  const isOurs = isSound && (knownBound ?? '') === '';
  const id = isOurs ? known : `r_${randomName(source, 12)}`;
  if (isSound && !isOurs) {
    log.warn(
      `the state directory ${stateDir} was made on another host, or this host got another name: GitLab sees it as ${id} from now on`,
    );
  }
  try {
    await mkdir(stateDir, { recursive: true, mode: 0o700 });
    await writeDurably(file, `${id}\n${bound}\n`);
  } catch (error) {
    throw new ForrestGitlabError(
      'state_unwritable',
      `the state directory ${stateDir} cannot be written: ${describeError(error)}; make room or mend its owner, and start again`,
      { cause: error },
    );
  }
  return id;
}

/** A digest: the machine's id is not to be shown to others. */
async function fingerprint(hostName: string, machineIdFile: string): Promise<string> {
  const machineId = await readIfThere(machineIdFile);
  return createHash('sha256').update(`${hostName}\n${machineId.trim()}`).digest('hex').slice(0, 32);
}

async function readIfThere(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return '';
    throw error;
  }
}
