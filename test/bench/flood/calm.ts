/** Machines that behave: each appends to its log at its pace. Told how long, answers with all latencies in ms. */

import { once } from 'node:events';
import type { Vm } from '../proxy/load.ts';
import { call, LOG_BYTES, open, patchOf } from './calls.ts';

const PACE_MS = 25;

const [vms] = (await once(process, 'message')) as [Vm[]];
const machines = await Promise.all(
  vms.map(async (vm) => ({ vm, socket: await open(vm.port), offset: 0 })),
);
process.on('message', (forMs: number) => void measure(forMs));
process.send?.('ready');

async function measure(forMs: number): Promise<void> {
  const latencies: number[] = [];
  const until = performance.now() + forMs;
  await Promise.all(
    machines.map(async (machine, index) => {
      // Not all at once.
      let due = performance.now() + (index * PACE_MS) / machines.length;
      while (due < until) {
        await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
        const at = performance.now();
        const status = await call(machine.socket, patchOf(machine.vm, machine.offset));
        if (status !== 202) throw new Error(`a calm machine was answered ${status}`);
        machine.offset += LOG_BYTES;
        latencies.push(performance.now() - at);
        due = Math.max(due + PACE_MS, performance.now());
      }
    }),
  );
  process.send?.(latencies);
}
