/** The end of a run: hosts are stopped as a person would, and what they leave is counted. */

import { eventually } from '../support/deadline.ts';
import { opens } from './control-socket.ts';
import type { ChaosHost } from './host.ts';
import type { Leaks } from './judge.ts';
import { journalFiles, machineRecords, processesOf, socketFiles, staleRunDirs } from './leaks.ts';

export interface StopOptions {
  readonly directory: string;
  /** For the last machines to power off. */
  readonly limitMs: number;
  say(line: string): void;
}

export async function stopAndMeasure(
  hosts: readonly ChaosHost[],
  { directory, limitMs, say }: StopOptions,
): Promise<Leaks> {
  const leaked = {
    ...{ machines: 0, reservationsMb: 0, runDirs: 0, journalFiles: 0 },
    ...{ tokens: 0, processes: 0, sockets: 0 },
  };
  for (const host of hosts) {
    await host.drain();
    const isEmpty = async (): Promise<boolean> => {
      const { machines, pool, providers } = await host.status();
      const live = providers.flatMap(({ status }) => status.jobs);
      return machines.length === 0 && pool.usedBytes === 0 && live.length === 0;
    };
    await eventually(`${host.name} to have nothing left`, isEmpty, limitMs).catch((error: Error) =>
      say(error.message),
    );
    const { machines, pool } = await host.status();
    leaked.machines += machines.length;
    leaked.reservationsMb += Math.ceil(pool.usedBytes / 1024 ** 2);
    for (const token of host.journal.vmTokens) {
      if (await opens(host.guestPort, token)) leaked.tokens += 1;
    }
    const code = await host.stop().catch((error: Error) => error.message);
    if (code !== 0) say(`${host.name} ended with ${code}`);
    leaked.machines += machineRecords(host.baseDir).length;
    leaked.journalFiles += journalFiles(host.baseDir).length;
    leaked.runDirs += staleRunDirs(host.baseDir).length;
    // The relay hears of the end of a process a moment later than we do.
    await eventually(
      `the connections of ${host.name} to be closed`,
      () => host.relay.connections === 0,
    ).catch((error: Error) => say(error.message));
    leaked.sockets += socketFiles(host.baseDir).length + host.relay.connections;
  }
  leaked.processes = processesOf(directory).length;
  return leaked;
}
