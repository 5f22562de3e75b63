/** Where leases are written down before anything that depends on them happens. */

import { mkdir, readdir, readFile, rename } from 'node:fs/promises';
import path from 'node:path';
import type { Logger } from '../contract/index.ts';
import { removeDurably, writeDurably } from '../lib/files.ts';
import { type LeaseRecord, parseRecord, serializeRecord } from './record.ts';

/** A store of lease records, by job id. Calls for one job are made one after the other. */
export interface Journal {
  /** Resolves once the record would survive a power cut. */
  put(record: LeaseRecord): Promise<void>;
  /** Forgets a job; resolves once that is durable. */
  remove(jobId: number): Promise<void>;
  /** Everything that an earlier run left. */
  load(): Promise<LeaseRecord[]>;
}

/** One JSON file per lease, mode 0600, in a directory of its own. */
export function createFileJournal(directory: string, log: Logger): Journal {
  const fileOf = (jobId: number): string => path.join(directory, `job-${jobId}.json`);
  return {
    put: (record) => writeDurably(fileOf(record.facts.id), serializeRecord(record)),
    remove: (jobId) => removeDurably(fileOf(jobId)),
    async load() {
      await mkdir(directory, { recursive: true, mode: 0o700 });
      const records: LeaseRecord[] = [];
      for (const name of await readdir(directory)) {
        if (!/^job-\d+\.json$/.test(name)) continue;
        const file = path.join(directory, name);
        const record = parseRecord(await readFile(file, 'utf8'));
        if ('problem' in record) {
          await rename(file, `${file}.damaged`);
          log.error(
            `the journal entry ${file} cannot be read and was set aside as ${name}.damaged`,
            {
              problem: record.problem,
            },
          );
        } else {
          records.push(record);
        }
      }
      return records;
    },
  };
}

/** Nothing on disk: for tests, and for nothing else. */
export function createMemoryJournal(entries: Map<number, string> = new Map()): Journal {
  return {
    async put(record) {
      entries.set(record.facts.id, serializeRecord(record));
    },
    async remove(jobId) {
      entries.delete(jobId);
    },
    async load() {
      return [...entries.values()].flatMap((text) => {
        const record = parseRecord(text);
        return 'problem' in record ? [] : [record];
      });
    },
  };
}
