/** Temporary directories that go with their test. */

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { TestContext } from 'node:test';

export async function temporaryDirectory(t: Pick<TestContext, 'after'>): Promise<string> {
  const directory = await mkdtemp(path.join(tmpdir(), 'forrest-test-'));
  t.after(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

/** A file that only its owner may read, as token files must be. */
export async function writePrivate(file: string, content: string, mode = 0o600): Promise<string> {
  await writeFile(file, content, { mode });
  return file;
}
