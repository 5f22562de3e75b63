/** Files that survive a power cut. */

import { open, rename, unlink } from 'node:fs/promises';
import path from 'node:path';
import { errorCode } from './errors.ts';
import { gathered } from './gathered.ts';

/**
 * Writes a file so that after a crash either the old or the new content is there: beside it, synced,
 * renamed, directory synced. Mode 0600. `drafted` is awaited before the rename.
 */
export async function writeDurably(
  file: string,
  content: string | Uint8Array,
  drafted?: () => Promise<void>,
): Promise<void> {
  const draft = `${file}.tmp`;
  try {
    const handle = await open(draft, 'w', 0o600);
    try {
      await handle.writeFile(content);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await drafted?.();
    await rename(draft, file);
  } catch (error) {
    // Half a file is of no use to anybody, and on a full disk it is in the way.
    await unlink(draft).catch(() => undefined);
    throw error;
  }
  await syncDirectory(path.dirname(file));
}

/** Removes a file durably; a file that is not there is fine. */
export async function removeDurably(file: string): Promise<void> {
  try {
    await unlink(file);
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return;
    throw error;
  }
  await syncDirectory(path.dirname(file));
}

/** One sync serves all who have changed something in a directory before it began. */
const syncs = new Map<string, () => Promise<void>>();

function syncDirectory(directory: string): Promise<void> {
  let sync = syncs.get(directory);
  if (sync === undefined) {
    sync = gathered(() => syncNow(directory));
    syncs.set(directory, sync);
  }
  return sync();
}

async function syncNow(directory: string): Promise<void> {
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
