/** What a process has used, as Linux tells it. */

import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { promisify } from 'node:util';

export interface Usage {
  readonly cpuSeconds: number;
  readonly rssBytes: number;
  /** Since {@link forgetPeak}. */
  readonly peakRssBytes: number;
}

let ticksPerSecond: number | null = null;

export async function usageOf(pid: number): Promise<Usage> {
  ticksPerSecond ??= Number((await promisify(execFile)('getconf', ['CLK_TCK'])).stdout);
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  // The name, in parentheses, may hold spaces.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const status = await readFile(`/proc/${pid}/status`, 'utf8');
  const kib = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? 0);
  return {
    cpuSeconds: (Number(fields[11]) + Number(fields[12])) / ticksPerSecond,
    rssBytes: kib('VmRSS') * 1024,
    peakRssBytes: kib('VmHWM') * 1024,
  };
}

/** What processes hold of the machine's memory, in bytes: what they share, such as Node itself, counts once. */
export async function memoryOf(pids: readonly number[]): Promise<number> {
  let own = 0;
  let shared = 0;
  for (const pid of pids) {
    const rollup = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8');
    const kib = (name: string): number =>
      Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(rollup)?.[1] ?? 0);
    own += kib('Private_Clean') + kib('Private_Dirty');
    shared = Math.max(shared, kib('Shared_Clean') + kib('Shared_Dirty'));
  }
  return (own + shared) * 1024;
}

/** The peak counts from now on. */
export async function forgetPeak(pid: number): Promise<void> {
  await writeFile(`/proc/${pid}/clear_refs`, '5');
}

/** Processes that a process has started and that still run. */
export async function childrenOf(pid: number): Promise<number[]> {
  const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8');
  return text.split(' ').filter(Boolean).map(Number);
}
