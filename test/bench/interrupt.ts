/** Ctrl-C ends a benchmark with all that it has started, and removes what it has written. */

import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { sendSignal } from '../../fixtures/host/src/drivers/proc.ts';

/** From now on SIGINT and SIGTERM end this process and all that descends from it, machines included. */
export function endAllWhenInterrupted(): void {
  // What the benchmark and its processes write for a while lies in this one directory.
  const directory = mkdtempSync(path.join(tmpdir(), 'bench-'));
  process.env['TMPDIR'] = directory;
  const tidyUp = () => rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
  process.once('exit', tidyUp);
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => {
      for (const pid of stopDescendants(process.pid)) sendSignal(pid, 'SIGKILL');
      tidyUp();
      process.kill(process.pid, signal);
    });
  }
}

/** Each is stopped before its children are looked for: it starts no more of them, and leaves none without a parent. */
function stopDescendants(pid: number): number[] {
  return childrenOf(pid).flatMap((child) => {
    sendSignal(child, 'SIGSTOP');
    return [child, ...stopDescendants(child)];
  });
}

function childrenOf(pid: number): number[] {
  try {
    return readdirSync(`/proc/${pid}/task`)
      .map((thread) => readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8'))
      .flatMap((pids) => pids.split(' ').filter(Boolean).map(Number));
  } catch {
    return []; // It is gone.
  }
}
