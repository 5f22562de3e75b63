/** The cases of the proxy's benchmark: each contender in turn, round by round, the calmest of which counts. */

import { quantile } from '../bench.ts';
import type { Contender } from './contenders.ts';
import { download, patchAtFullSpeed, runManyVms, upload } from './load.ts';
import { forgetPeak, usageOf } from './usage.ts';

const MIB = 1024 * 1024;

/** What one contender reached in one round. */
export interface Sample {
  /** MiB/s or calls/s. */
  readonly rate: number;
  /** Of calls, in ms; null where there is but one. */
  readonly p50: number | null;
  readonly p99: number | null;
  /** Of the process in the middle, for a GiB or for 1,000 calls; null where there is none. */
  readonly cpuSeconds: number | null;
  readonly peakRssMib: number | null;
}

interface Work {
  readonly bytes?: number;
  readonly latencies?: readonly number[];
}

export interface Case {
  readonly name: string;
  /** What counts. */
  readonly of: 'bytes' | 'calls';
  /** What comes before `begin` is not measured. */
  run(contender: Contender, begin: () => Promise<void>): Promise<Work>;
}

const TRANSFER_BYTES = 1024 * MIB;
const CONNECTIONS = [1, 16, 64, 256] as const;
const PATCH_MS = 2000;
const MANY = { count: 100, uploading: 4, intervalMs: 3000, forMs: 12_000 } as const;

function firstVm(contender: Contender): Contender['vms'][number] {
  const [vm] = contender.vms;
  if (vm === undefined) throw new Error(`${contender.name} has no machine`);
  return vm;
}

export const UPLOAD: Case = {
  name: '1 GiB chunked upload',
  of: 'bytes',
  async run(contender, begin) {
    await begin();
    return { bytes: await upload(firstVm(contender), TRANSFER_BYTES) };
  },
};

export const DOWNLOAD: Case = {
  name: '1 GiB download',
  of: 'bytes',
  async run(contender, begin) {
    await begin();
    return { bytes: await download(firstVm(contender)) };
  },
};

export const PATCHES: readonly Case[] = CONNECTIONS.map((connections) => ({
  name: `2 KiB PATCH, ${connections} connection${connections === 1 ? '' : 's'}`,
  of: 'calls',
  run: async ({ vms }, begin) => ({
    latencies: await patchAtFullSpeed({ vms, connections, forMs: PATCH_MS }, begin),
  }),
}));

export const MANY_VMS: Case = {
  name: `${MANY.count} VMs, ${MANY.uploading} uploading`,
  of: 'bytes',
  run: ({ vms }, begin) => runManyVms({ ...MANY, vms: vms.slice(0, MANY.count) }, begin),
};

export const UNITS = { bytes: 'MiB/s', calls: '/s' } as const;

export type Samples = ReadonlyMap<Contender['name'], Sample>;

/** All contenders so often, in turns. */
export async function runCase(
  one: Case,
  contenders: readonly Contender[],
  rounds: number,
  progress: (line: string) => void,
): Promise<Samples> {
  const all = new Map<Contender['name'], Sample[]>();
  for (let round = 1; round <= rounds; round += 1) {
    // In turns, so that what one leaves behind is shared fairly.
    const turn = contenders.map((_, index) => contenders[(index + round) % contenders.length]);
    for (const contender of turn) {
      if (contender === undefined) continue;
      const sample = await measure(one, contender);
      all.set(contender.name, [...(all.get(contender.name) ?? []), sample]);
      progress(
        `${one.name}, round ${round} of ${rounds}, ${contender.name}: ${Math.round(sample.rate)} ${UNITS[one.of]}${sample.p99 === null ? '' : `, p99 ${sample.p99.toFixed(2)} ms`}`,
      );
    }
  }
  return new Map([...all].map(([name, samples]) => [name, calmest(samples)]));
}

async function measure(one: Case, contender: Contender): Promise<Sample> {
  const { pid } = contender;
  let cpuBefore = 0;
  let startedAt = 0;
  const begin = async (): Promise<void> => {
    if (pid !== null) {
      await forgetPeak(pid);
      cpuBefore = (await usageOf(pid)).cpuSeconds;
    }
    startedAt = performance.now();
  };
  const { bytes = 0, latencies = [] } = await one.run(contender, begin);
  const seconds = (performance.now() - startedAt) / 1000;
  const after = pid === null ? null : await usageOf(pid);
  const done = one.of === 'bytes' ? bytes / MIB : latencies.length;
  const per = one.of === 'bytes' ? 1024 : 1000;
  return {
    rate: done / seconds,
    p50: latencies.length === 0 ? null : quantile(latencies, 0.5),
    p99: latencies.length === 0 ? null : quantile(latencies, 0.99),
    cpuSeconds: after && ((after.cpuSeconds - cpuBefore) / done) * per,
    peakRssMib: after && after.peakRssBytes / MIB,
  };
}

/** The best of each figure: the machine is not ours alone. */
function calmest(samples: readonly Sample[]): Sample {
  const least = (key: 'p50' | 'p99' | 'cpuSeconds' | 'peakRssMib'): number | null => {
    const values = samples.map((sample) => sample[key]).filter((value) => value !== null);
    return values.length === 0 ? null : Math.min(...values);
  };
  return {
    rate: Math.max(...samples.map((sample) => sample.rate)),
    p50: least('p50'),
    p99: least('p99'),
    cpuSeconds: least('cpuSeconds'),
    peakRssMib: least('peakRssMib'),
  };
}
