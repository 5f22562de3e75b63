/** How soon a job is taken up, by us in each of our ways and by the official runner. */

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { isInstalled, QEMU } from '../../../fixtures/host/src/drivers/qemu/index.ts';
import { findGuestRunner } from '../../../fixtures/main-job/runner.ts';
import { type Bench, type BenchReport, type Figure, type Goal, quantile } from '../bench.ts';
import type { Pickup } from './measure.ts';
import { measureOfficial } from './official.ts';
import { measureOurs, type OursOptions } from './ours.ts';
import type { Schedule } from './schedule.ts';

/** More than a burst and what may still run of the one before: what is measured is looking, not waiting for room. */
const SLOTS = 16;
const QEMU_SLOTS = 3;

const JOBS: Schedule = { single: 70, bursts: 6, burstOf: 5, forMs: 60_000 };
/** Where a figure is for show. */
const FEWER_JOBS: Schedule = { single: 25, bursts: 1, burstOf: 5, forMs: 18_000 };
/** Without KVM a machine needs a core for some seconds. */
const QEMU_JOBS: Schedule = { single: 0, bursts: 6, burstOf: 2, forMs: 60_000 };

interface Way extends Pick<OursOptions, 'driver' | 'webhookDelayMs' | 'warm' | 'schedule'> {
  readonly name: string;
}

const INTERVAL: Way = {
  name: 'interval only',
  driver: 'process',
  webhookDelayMs: null,
  warm: 0,
  schedule: JOBS,
};
const WEBHOOK: Way = { ...INTERVAL, name: 'webhook', webhookDelayMs: 0 };
const LATE: Way = {
  ...WEBHOOK,
  name: 'webhook 0.5 s late',
  webhookDelayMs: 500,
  schedule: FEWER_JOBS,
};
const LATER: Way = { ...LATE, name: 'webhook 2 s late', webhookDelayMs: 2000 };
const WARM: Way = { ...WEBHOOK, name: 'webhook, warm machines', warm: 2, schedule: FEWER_JOBS };
const IN_QEMU: Way = {
  ...WEBHOOK,
  name: 'webhook, QEMU from a snapshot',
  driver: 'qemu',
  schedule: QEMU_JOBS,
};
const WARM_IN_QEMU: Way = { ...IN_QEMU, name: 'webhook, warm QEMU machines', warm: 2 };

/** What is to be reached, beside the official runner's. */
const WEBHOOK_LIMIT = 0.1;
const INTERVAL_LIMIT = 1;
const WARM_LIMIT = 0.5;

export const bench: Bench = {
  summary:
    'how soon jobs are taken up: interval, webhook, warm machines, beside the official runner',
  async run(progress): Promise<BenchReport> {
    const directory = await mkdtemp(path.join(tmpdir(), 'forrest-bench-pickup-'));
    try {
      const given = process.env['GITLAB_RUNNER'];
      const runner = await findGuestRunner(given);
      progress(`machines run the ${runner.kind} runner, ${runner.version}`);
      let official: Pickup | null = null;
      if (runner.kind === 'official') {
        progress('the official runner by itself');
        official = await measureOfficial({
          directory: path.join(directory, 'official'),
          runner: runner.command,
          slots: SLOTS,
          schedule: JOBS,
        });
      } else {
        progress('no official runner to compare with: set GITLAB_RUNNER');
      }
      const found = new Map<Way, Pickup>();
      for (const [index, way] of waysHere(progress).entries()) {
        progress(`ours: ${way.name}`);
        const options = {
          ...way,
          directory: path.join(directory, String(index)),
          runner,
          slots: way.driver === 'qemu' ? QEMU_SLOTS : SLOTS,
        };
        found.set(way, await measureOurs(options, progress));
      }
      return {
        peer:
          official === null
            ? 'none: GITLAB_RUNNER is not set'
            : 'gitlab-runner run, shell executor, every 3 s',
        figures: [...found].flatMap(([way, pickup]) => toFigures(way.name, pickup, official)),
        goals: toGoals(found, official),
      };
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  },
};

function waysHere(progress: (line: string) => void): Way[] {
  const hasQemu = isInstalled(QEMU) && isInstalled('mformat');
  if (!hasQemu) progress('no virtual machines: qemu-system-x86 and mtools are not installed');
  return [INTERVAL, WEBHOOK, LATE, LATER, WARM, ...(hasQemu ? [IN_QEMU, WARM_IN_QEMU] : [])];
}

const SPANS = {
  'queued to claimed': 'claimed',
  'claimed to first log': 'firstLog',
  'queued to final': 'final',
} as const;

const QUANTILES = { p50: 0.5, p95: 0.95, max: 1 } as const;

function toFigures(name: string, ours: Pickup, official: Pickup | null): Figure[] {
  const figures: Figure[] = [];
  for (const [what, span] of Object.entries(SPANS)) {
    for (const [label, share] of Object.entries(QUANTILES)) {
      figures.push({
        what: `${name}: ${what}, ${label}`,
        unit: 'ms',
        ours: quantile(ours[span], share),
        peer: official && quantile(official[span], share),
      });
    }
  }
  figures.push({
    what: `${name}: requests a job`,
    unit: '',
    ours: ours.requestsPerJob,
    peer: official?.requestsPerJob ?? null,
  });
  return figures;
}

function toGoals(found: ReadonlyMap<Way, Pickup>, official: Pickup | null): Goal[] {
  const goal = (way: Way, span: 'claimed' | 'final', label: 'p50' | 'p95', limit: number): Goal => {
    const ours = found.get(way);
    const words = span === 'claimed' ? 'queued to claimed' : 'queued to final';
    const what = `${way.name}: ${words}, ${label} at most ${limit} × the official runner's`;
    if (ours === undefined) return { what, measured: 'no QEMU', met: null };
    if (official === null) return { what, measured: 'no GITLAB_RUNNER', met: null };
    const share = QUANTILES[label];
    const ratio = quantile(ours[span], share) / quantile(official[span], share);
    return { what, measured: `${ratio.toFixed(3)} ×`, met: ratio <= limit };
  };
  return [
    goal(WEBHOOK, 'claimed', 'p50', WEBHOOK_LIMIT),
    goal(WEBHOOK, 'claimed', 'p95', WEBHOOK_LIMIT),
    goal(INTERVAL, 'claimed', 'p50', INTERVAL_LIMIT),
    goal(INTERVAL, 'claimed', 'p95', INTERVAL_LIMIT),
    goal(WARM_IN_QEMU, 'final', 'p50', WARM_LIMIT),
  ];
}
