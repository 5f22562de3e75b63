/** What the calls of calm machines cost while another machine floods: beside the same, without a flood. */

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { within } from '../support/deadline.ts';
import { type Bench, type BenchReport, type Figure, type Goal, quantile } from './bench.ts';
import type { Answers, Flood, Way } from './flood/flooder.ts';
import { startNginx, startOurs, startUpstream } from './proxy/contenders.ts';
import type { Vm } from './proxy/load.ts';

const CALM = 10;
/** Each of a calm phase and one with the flood, one after the other: what else runs here meets both. */
const ROUNDS = 4;
/** Long enough that how a flood begins is a small part of it. */
const PHASE_MS = 10_000;
/** Until nothing is compiled any more. */
const WARM_UP_MS = 5000;
const LIMIT_MS = 120_000;

const WAYS: Readonly<Record<Way, string>> = {
  calls: 'calls at full speed on 64 connections',
  connections: 'a new connection for each call',
  silence: 'new connections that say nothing',
};

/** What is promised of a machine that names itself. */
const MAX_GROWTH = 1.2;

export const bench: Bench = {
  summary: 'what other machines notice of one that floods the proxy',
  async run(progress): Promise<BenchReport> {
    const directory = await mkdtemp(path.join(tmpdir(), 'forrest-bench-flood-'));
    const ends: (() => unknown)[] = [() => rm(directory, { recursive: true, force: true })];
    try {
      const upstream = await startUpstream();
      ends.push(() => upstream.end());
      await upstream.set({ jobs: CALM + 1, downloadBytes: 0, readBytesPerSecond: null });
      const { contender, jobs } = await startOurs(directory, upstream.port, CALM + 1, progress);
      ends.push(() => contender.end());
      const nginx = await startNginx(path.join(directory, 'nginx'), upstream.port, jobs);
      ends.push(() => nginx.end());
      const flooder = await start('flooder.ts', ends);
      const ours = await startCalm(contender.vms, flooder, ends);
      const figures: Figure[] = [];
      const goals: Goal[] = [];
      for (const way of Object.keys(WAYS) as Way[]) {
        const { growth, answers } = await measure(way, WAYS[way], ours, figures);
        progress(`${WAYS[way]}: answered ${JSON.stringify(answers)}`);
        const what = `${WAYS[way]}: the others’ p99 grows by less than 20 %`;
        if (way === 'silence') {
          // Not before: nginx closes connections that rest.
          const beside = await startCalm(nginx.vms, flooder, ends);
          const { growth: nginxs } = await measure(way, `${WAYS[way]}, to nginx`, beside, figures);
          const measured = `${percent(growth)}; nginx under the same: ${percent(nginxs)}`;
          goals.push({ what, measured, met: growth < MAX_GROWTH });
        } else {
          const refused = answers['429'] ?? 0;
          const measured = `${percent(growth)}; ${refused} of ${sum(answers)} calls answered 429`;
          goals.push({ what, measured, met: growth < MAX_GROWTH && refused > 0 });
        }
      }
      return { peer: 'without the flood', figures, goals };
    } finally {
      for (const end of ends.reverse()) await end();
    }
  },
};

async function start(name: string, ends: (() => unknown)[]): Promise<ChildProcess> {
  const child = fork(path.join(import.meta.dirname, 'flood', name));
  ends.push(() => child.kill('SIGKILL'));
  if (name === 'flooder.ts') await within(name, once(child, 'message'), LIMIT_MS);
  return child;
}

async function ask<T>(child: ChildProcess, what: readonly Vm[] | Flood | number): Promise<T> {
  const answered = new AbortController();
  const { signal } = answered;
  const ended = once(child, 'exit', { signal }).then(() => {
    throw new Error('a load process failed');
  });
  ended.catch(() => undefined);
  const answer = once(child, 'message', { signal });
  child.send(what);
  const [message] = (await within('the load', Promise.race([answer, ended]), LIMIT_MS)) as [T];
  answered.abort();
  return message;
}

/** Machines that behave, and one that does not, all behind the same proxy. */
interface Group {
  readonly flooding: Vm;
  readonly flooder: ChildProcess;
  readonly calm: ChildProcess;
}

async function startCalm(
  [flooding, ...others]: readonly Vm[],
  flooder: ChildProcess,
  ends: (() => unknown)[],
): Promise<Group> {
  if (flooding === undefined) throw new Error('there is no machine that could flood');
  const calm = await start('calm.ts', ends);
  await ask(calm, others);
  await ask(calm, WARM_UP_MS);
  return { flooding, flooder, calm };
}

/** By what factor the others' p99 grows. */
async function measure(
  way: Way,
  name: string,
  group: Group,
  figures: Figure[],
): Promise<{ growth: number; answers: Answers }> {
  const { alone, flooded, answers } = await rounds(way, group);
  const [, growth] = [0.5, 0.99].map((share) => {
    const ours = middle(flooded.map((phase) => quantile(phase, share)));
    const peer = middle(alone.map((phase) => quantile(phase, share)));
    figures.push({ what: `${name}: the others’ p${share * 100}`, unit: 'ms', ours, peer });
    return ours / peer;
  }) as [number, number];
  const perSecond = sum(answers) / ((ROUNDS * PHASE_MS) / 1000);
  figures.push({ what: `${name}: flooding`, unit: '/s', ours: perSecond, peer: 0 });
  return { growth, answers };
}

async function rounds(
  way: Way,
  { flooding: vm, flooder, calm }: Group,
): Promise<{ alone: number[][]; flooded: number[][]; answers: Answers }> {
  const alone: number[][] = [];
  const flooded: number[][] = [];
  const answers: Record<string, number> = {};
  for (let round = 0; round < ROUNDS; round += 1) {
    alone.push(await ask<number[]>(calm, PHASE_MS));
    const [latencies, got] = await Promise.all([
      ask<number[]>(calm, PHASE_MS),
      ask<Answers>(flooder, { vm, way, forMs: PHASE_MS }),
    ]);
    flooded.push(latencies);
    for (const [status, count] of Object.entries(got)) {
      answers[status] = (answers[status] ?? 0) + count;
    }
  }
  return { alone, flooded, answers };
}

function sum(answers: Answers): number {
  return Object.values(answers).reduce((total, count) => total + count, 0);
}

const percent = (growth: number): string => `${((growth - 1) * 100).toFixed(0)} %`;

function middle(values: readonly number[]): number {
  return quantile(values, 0.5);
}
