/** What a host writes down of its jobs, seen from outside: the proof that it has received them. */

import { type FSWatcher, readdirSync, readFileSync, watch } from 'node:fs';
import path from 'node:path';

export interface Sighting {
  readonly jobId: number;
  /** A state of the lease. */
  readonly state: string;
  readonly runnerName: string;
}

export class JournalWatch {
  /** Entries that are there now. */
  readonly live: Map<number, Sighting> = new Map();
  /** Every job that ever had one. */
  readonly received: Set<number> = new Set();
  /** Every token that ever opened the proxy for a machine. */
  readonly vmTokens: Set<string> = new Set();
  readonly directory: string;
  readonly #watcher: FSWatcher;

  /** The directory exists. */
  constructor(directory: string) {
    this.directory = directory;
    this.#watcher = watch(directory, (_event, name) => this.#look(name));
    // Watched for as long as it is there; what is lost with it was counted before.
    this.#watcher.on('error', () => undefined);
    for (const name of readdirSync(directory)) this.#look(name);
  }

  fileOf(jobId: number): string {
    return path.join(this.directory, `job-${jobId}.json`);
  }

  close(): void {
    this.#watcher.close();
  }

  #look(name: string | null): void {
    const id = /^job-(\d+)\.json$/.exec(name ?? '')?.[1];
    if (id === undefined) return;
    const jobId = Number(id);
    let text: string;
    try {
      text = readFileSync(this.fileOf(jobId), 'utf8');
    } catch {
      this.live.delete(jobId);
      return;
    }
    this.received.add(jobId);
    const entry = parse(text);
    if (entry === undefined) return;
    this.live.set(jobId, { jobId, state: entry.state.name, runnerName: entry.runnerName });
    this.vmTokens.add(entry.vmToken);
  }
}

interface Entry {
  readonly runnerName: string;
  readonly vmToken: string;
  readonly state: { readonly name: string };
}

/** Undefined where it is no whole entry: such a file is somebody's fault on purpose. */
function parse(text: string): Entry | undefined {
  try {
    return JSON.parse(text) as Entry;
  } catch {
    return undefined;
  }
}
