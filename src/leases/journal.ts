/** Where leases are written down before anything that depends on them happens. */

import { randomBytes } from 'node:crypto';
import { link, mkdir, readdir, readFile, rename, stat, unlink } from 'node:fs/promises';
import path from 'node:path';
import type { Logger } from '../contract/index.ts';
import { errorCode } from '../lib/errors.ts';
import { removeDurably, writeDurably } from '../lib/files.ts';
import { gathered } from '../lib/gathered.ts';
import {
  type LeaseRecord,
  parseRecord,
  type Salvaged,
  salvage,
  serializeRecord,
} from './record.ts';

/** A store of lease records, by job id. Calls for one job are made one after the other. */
export interface Journal {
  /** Resolves once the record would survive a power cut. */
  put(record: LeaseRecord): Promise<void>;
  /** Forgets a job; resolves once that is durable. */
  remove(jobId: number): Promise<void>;
  /** Takes an entry out of the journal, and keeps it for a person to look at. */
  setAside(jobId: number): Promise<void>;
  /** Holds disk space back, for the next entry on a full disk. Rejects where there is none. */
  keepSpare(): Promise<void>;
  /** Everything that an earlier run left. */
  load(): Promise<Loaded>;
}

export interface Loaded {
  readonly records: readonly LeaseRecord[];
  /** Jobs whose entries are damaged: they can still be ended. */
  readonly salvaged: readonly Salvaged[];
}

/** An entry is seldom larger than a tenth of this; several may come before there is space again. */
const SPARE_BYTES = 1024 * 1024;

const ENTRY = /^job-(\d+)\.json$/;
const DRAFT = /^(job-\d+\.json)\.tmp$/;

/** One JSON file per lease, mode 0600, in a directory of its own. */
export function createFileJournal(
  directory: string,
  log: Logger,
  drafted: () => Promise<void> = async () => undefined,
): Journal {
  const fileOf = (jobId: number): string => path.join(directory, `job-${jobId}.json`);
  const spare = `${directory}.spare`;
  return {
    async put(record) {
      const file = fileOf(record.facts.id);
      const text = serializeRecord(record);
      try {
        await writeDurably(file, text, drafted);
      } catch (error) {
        if (!isFull(error)) throw error;
        await removeDurably(spare);
        await writeDurably(file, text, drafted);
      }
    },
    remove: (jobId) => removeDurably(fileOf(jobId)),
    async setAside(jobId) {
      await rename(fileOf(jobId), `${fileOf(jobId)}.undelivered`);
    },
    // Of jobs that are claimed together, each sees to it.
    keepSpare: gathered(async () => {
      await mkdir(directory, { recursive: true, mode: 0o700 });
      const size = await stat(spare).then(
        (found) => found.size,
        () => 0,
      );
      if (size !== SPARE_BYTES) await writeDurably(spare, randomBytes(SPARE_BYTES));
    }),
    async load() {
      await mkdir(directory, { recursive: true, mode: 0o700 });
      await settleDrafts(directory);
      const records: LeaseRecord[] = [];
      const salvaged: Salvaged[] = [];
      for (const name of await readdir(directory)) {
        const id = ENTRY.exec(name)?.[1];
        if (id === undefined) continue;
        const file = path.join(directory, name);
        const text = await readFile(file, 'utf8');
        const record = parseRecord(text);
        if (!('problem' in record)) {
          records.push(record);
        } else if (record.isNewer) {
          log.error(`the journal entry ${file} was left alone: ${record.problem}`);
        } else {
          const found = salvage(text, Number(id));
          await keepDamaged(file, found !== null);
          if (found !== null) salvaged.push(found);
          log.error(
            `the journal entry ${file} is damaged and was set aside as ${name}.damaged; its job ${found === null ? 'cannot be ended by us, GitLab will after a while' : 'is failed in GitLab'}`,
            { problem: record.problem },
          );
        }
      }
      return { records, salvaged };
    },
  };
}

/** A crash in the middle of a write leaves a draft: of a new entry, it is all there is. */
async function settleDrafts(directory: string): Promise<void> {
  const names = await readdir(directory);
  for (const name of names) {
    const entry = DRAFT.exec(name)?.[1];
    if (entry !== undefined && !names.includes(entry)) {
      await rename(path.join(directory, name), path.join(directory, entry));
    } else if (name.endsWith('.tmp')) {
      await unlink(path.join(directory, name));
    }
  }
}

/** Where the job can still be ended, its entry stays until a sound one takes its place. */
async function keepDamaged(file: string, isSalvaged: boolean): Promise<void> {
  const aside = `${file}.damaged`;
  if (!isSalvaged) {
    await rename(file, aside);
    return;
  }
  await link(file, aside).catch((error: unknown) => {
    if (errorCode(error) !== 'EEXIST') throw error;
  });
}

function isFull(error: unknown): boolean {
  const code = errorCode(error);
  return code === 'ENOSPC' || code === 'EDQUOT';
}
