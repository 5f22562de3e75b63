/** A small file system of its own for a host's state, which can be full while all others have room. */

import { execFile } from 'node:child_process';
import { mkdir, open, rm } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

export interface SmallDisk {
  fill(): Promise<void>;
  empty(): Promise<void>;
  unmount(): Promise<void>;
}

/** Null where this user may not mount. */
export async function mountSmallDisk(directory: string): Promise<SmallDisk | null> {
  await mkdir(directory, { recursive: true });
  try {
    await run('mount', ['-t', 'tmpfs', '-o', 'size=4m,mode=700', 'chaos', directory]);
  } catch {
    return null;
  }
  const filler = path.join(directory, 'filler');
  return {
    async fill() {
      const handle = await open(filler, 'w');
      try {
        for (const size of [65_536, 4096, 1]) await writeUntilFull(handle, Buffer.alloc(size));
      } finally {
        await handle.close();
      }
    },
    empty: () => rm(filler, { force: true }),
    unmount: async () => void (await run('umount', ['--lazy', directory])),
  };
}

async function writeUntilFull(
  handle: Awaited<ReturnType<typeof open>>,
  chunk: Buffer,
): Promise<void> {
  try {
    for (;;) await handle.writeFile(chunk);
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ENOSPC')) throw error;
  }
}
