/** What the proxy costs: the way through us beside the one through nginx, and straight to the same upstream. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { Bench, BenchReport, Figure, Goal } from '../bench.ts';
import {
  type Case,
  DOWNLOAD,
  MANY_VMS,
  PATCHES,
  runCase,
  type Sample,
  type Samples,
  UNITS,
  UPLOAD,
} from './cases.ts';
import {
  type Contender,
  plainVms,
  startNginx,
  startOurs,
  startUpstream,
  type Upstream,
} from './contenders.ts';
import { LOAD, measureGrowth } from './memory.ts';

const ROUNDS = 3;
/** Enough that none of them makes more small calls than a VM may. */
const VMS = 256;
const DOWNLOAD_BYTES = 1024 ** 3;

/** What is to be reached. */
const TRANSFER_RATE = 1;
const CALL_RATE = 0.66;
const CALL_P99 = 2;
const ADDED_P99_MS = 5;
const GROWTH_MIB = 64;

export const bench: Bench = {
  summary: 'the proxy: throughput, small calls and memory, beside nginx',
  async run(progress): Promise<BenchReport> {
    const directory = await mkdtemp(path.join(tmpdir(), 'forrest-bench-proxy-'));
    const ends: (() => void | Promise<void>)[] = [];
    try {
      const upstream = await startUpstream();
      ends.push(() => upstream.end());
      await upstream.set({ jobs: VMS, downloadBytes: DOWNLOAD_BYTES, readBytesPerSecond: null });
      const { contender: ours, jobs } = await startOurs(
        path.join(directory, 'ours'),
        upstream.port,
        VMS,
        progress,
      );
      ends.push(() => ours.end());
      const nginx = await startNginx(path.join(directory, 'nginx'), upstream.port, jobs);
      ends.push(() => nginx.end());
      const direct: Contender = {
        name: 'direct',
        vms: plainVms(upstream.port, jobs),
        pid: null,
        end: async () => undefined,
      };
      return await measureAll([direct, nginx, ours], upstream, progress);
    } finally {
      for (const end of ends.reverse()) await end();
      await rm(directory, { recursive: true, force: true });
    }
  },
};

async function measureAll(
  contenders: readonly [Contender, Contender, Contender],
  upstream: Upstream,
  progress: (line: string) => void,
): Promise<BenchReport> {
  const figures: Figure[] = [];
  const goals: Goal[] = [];
  const run = async (one: Case): Promise<Record<Contender['name'], Sample>> => {
    const samples = await runCase(one, contenders, ROUNDS, progress);
    const found = {
      direct: of(samples, 'direct'),
      nginx: of(samples, 'nginx'),
      ours: of(samples, 'ours'),
    };
    figures.push(...toFigures(one, found));
    return found;
  };

  for (const one of [UPLOAD, DOWNLOAD]) {
    const { ours, nginx } = await run(one);
    goals.push(atLeast(`${one.name}: MiB/s`, ours.rate / nginx.rate, TRANSFER_RATE));
  }
  for (const one of PATCHES) {
    const { ours, nginx } = await run(one);
    goals.push(atLeast(`${one.name}: calls/s`, ours.rate / nginx.rate, CALL_RATE));
    goals.push(atMost(`${one.name}: p99`, (ours.p99 ?? 0) / (nginx.p99 ?? 0), CALL_P99));
  }
  const many = await run(MANY_VMS);
  const added = (many.ours.p99 ?? 0) - (many.direct.p99 ?? 0);
  goals.push({
    what: `${MANY_VMS.name}: PATCH p99 at most ${ADDED_P99_MS} ms above direct`,
    measured: `${added.toFixed(2)} ms`,
    met: added < ADDED_P99_MS,
  });

  const [, nginx, ours] = contenders;
  progress(`${LOAD}: nginx`);
  const peer = await measureGrowth(nginx, upstream);
  progress(`${LOAD}: ours`);
  const grown = await measureGrowth(ours, upstream);
  figures.push({ what: `${LOAD}: RSS growth`, unit: 'MiB', ours: grown, peer });
  goals.push({
    what: `${LOAD}: RSS grows by less than ${GROWTH_MIB} MiB`,
    measured: `${grown.toFixed(1)} MiB`,
    met: grown < GROWTH_MIB,
  });
  return { peer: 'nginx, not buffering', figures, goals };
}

function of(samples: Samples, name: Contender['name']): Sample {
  const sample = samples.get(name);
  if (sample === undefined) throw new Error(`${name} was not measured`);
  return sample;
}

function toFigures(one: Case, found: Record<Contender['name'], Sample>): Figure[] {
  const { direct, nginx, ours } = found;
  const figures: Figure[] = [];
  const add = (what: string, unit: string, key: keyof Sample): void => {
    if (ours[key] === null) return;
    figures.push({
      what: `${one.name}${what}`,
      unit,
      ours: ours[key],
      peer: nginx[key],
      direct: direct[key],
    });
  };
  add('', UNITS[one.of], 'rate');
  add(': PATCH p50', 'ms', 'p50');
  add(': PATCH p99', 'ms', 'p99');
  add(one.of === 'bytes' ? ': CPU for a GiB' : ': CPU for 1,000 calls', 's', 'cpuSeconds');
  add(': peak RSS', 'MiB', 'peakRssMib');
  return figures;
}

function atLeast(what: string, ratio: number, limit: number): Goal {
  return {
    what: `${what} at least ${limit} × nginx's`,
    measured: `${ratio.toFixed(2)} ×`,
    met: ratio >= limit,
  };
}

function atMost(what: string, ratio: number, limit: number): Goal {
  return {
    what: `${what} at most ${limit} × nginx's`,
    measured: `${ratio.toFixed(2)} ×`,
    met: ratio <= limit,
  };
}
