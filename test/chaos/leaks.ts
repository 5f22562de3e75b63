/** What a run has left behind: on disk, in memory, in the process table. */

import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import path from 'node:path';

/** Ended run directories that a host keeps for debugging, by type. */
const KEPT_RUN_DIRS = 20;

/** Files of a run directory that only a live machine needs. */
const LIVE_FILES = /\.img$/;

/** Records of machines. */
export function machineRecords(baseDir: string): string[] {
  return filesIn(path.join(baseDir, 'state/host/machines'));
}

/** Entries, and drafts of them. What was set aside is for a person to read. */
export function journalFiles(baseDir: string): string[] {
  const directory = path.join(baseDir, 'state/gitlab/leases');
  return filesIn(directory).filter((file) => !file.endsWith('.damaged'));
}

/** Run directories beyond those that are kept, and kept ones with what only a live machine needs. */
export function staleRunDirs(baseDir: string): string[] {
  const dirs = directoriesWithin(path.join(baseDir, 'runs'), 2);
  const holding = dirs.filter((dir) => filesIn(dir).some((f) => LIVE_FILES.test(path.basename(f))));
  return [...dirs.slice(KEPT_RUN_DIRS), ...holding];
}

/** Sockets in the file system that nobody listens on any more. */
export function socketFiles(baseDir: string): string[] {
  try {
    return readdirSync(baseDir, { withFileTypes: true })
      .filter((entry) => entry.isSocket())
      .map((entry) => path.join(baseDir, entry.name));
  } catch {
    return [];
  }
}

/** Processes that work in a directory, or have it on their command line or in their environment. */
export function processesOf(directory: string): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter((pid) => mentions(pid, directory))
    .map(Number);
}

function mentions(pid: string, directory: string): boolean {
  try {
    if (readlinkSync(`/proc/${pid}/cwd`).startsWith(directory)) return true;
    const text = ['cmdline', 'environ'].map((name) => readFileSync(`/proc/${pid}/${name}`, 'utf8'));
    return text.some((one) => one.includes(directory));
  } catch {
    // It has ended, or is nobody that we could have started.
    return false;
  }
}

function filesIn(directory: string): string[] {
  try {
    return readdirSync(directory).map((name) => path.join(directory, name));
  } catch {
    return [];
  }
}

function directoriesWithin(directory: string, depth: number): string[] {
  if (depth === 0) {
    return filesIn(directory).filter((file) => filesIn(file).length > 0);
  }
  return filesIn(directory).flatMap((file) => directoriesWithin(file, depth - 1));
}
