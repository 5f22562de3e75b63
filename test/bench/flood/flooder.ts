/** A machine that floods, in one of these ways, for so long as it is told; answers with what it was answered. */

import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import type { Vm } from '../proxy/load.ts';
import { call, open, patchOf } from './calls.ts';

export type Way = 'calls' | 'connections' | 'silence';

export interface Flood {
  readonly vm: Vm;
  readonly way: Way;
  readonly forMs: number;
}

/** Answers by status; `0`: none, or none awaited. */
export type Answers = Readonly<Record<string, number>>;

/** A guest has processors of its own: what is measured is the proxy, not the contest for this machine's. */
execFileSync('chrt', ['--all-tasks', '--idle', '--pid', '0', String(process.pid)]);

const AT_ONCE = 64;

process.on('message', (flood: Flood) => void run(flood));
process.send?.('ready');

async function run({ vm, way, forMs }: Flood): Promise<void> {
  const until = performance.now() + forMs;
  const answers: Record<string, number> = {};
  const request = patchOf(vm, 0);
  const worker = async (): Promise<void> => {
    let socket = await open(vm.port);
    while (performance.now() < until) {
      const status = way === 'silence' ? 0 : await call(socket, request);
      answers[status] = (answers[status] ?? 0) + 1;
      if (way === 'calls' && status !== 0) continue;
      if (way === 'silence') leave(socket);
      else socket.destroy();
      socket = await open(vm.port);
    }
    socket.destroy();
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  for (const socket of left.splice(0)) socket.destroy();
  process.send?.(answers);
}

const left: Awaited<ReturnType<typeof open>>[] = [];
/** Open for as long as the other side has them. */
const MAX_LEFT = 5000;

function leave(socket: Awaited<ReturnType<typeof open>>): void {
  left.push(socket);
  if (left.length > MAX_LEFT) left.shift()?.destroy();
}

await once(process, 'disconnect');
