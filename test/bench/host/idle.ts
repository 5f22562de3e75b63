/** What a host costs that has nothing to do. */

import { fork } from 'node:child_process';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { BenchReport } from '../bench.ts';
import { memoryOf, usageOf } from '../proxy/usage.ts';
import type { Asks } from './bare-asker.ts';
import { startRig } from './rig.ts';

const RUNNERS = 20;
/** V8 compiles what is called often, and what starting needed is forgotten. */
const WARM_UP_MS = 30_000;
const MEASURED_MS = 60_000;
const CPU_PERCENT = 1;
const MEMORY_MB = 120;

export async function measureIdle(
  directory: string,
  progress: (line: string) => void,
): Promise<Pick<BenchReport, 'figures' | 'goals'>> {
  const rig = await startRig(directory, { runners: RUNNERS, machines: RUNNERS });
  const bare = fork(path.join(import.meta.dirname, 'bare-asker.ts'));
  try {
    bare.send({ url: rig.gitlab.url, tokens: rig.tokens } satisfies Asks);
    progress(`an idle host with ${RUNNERS} runners, ${(WARM_UP_MS + MEASURED_MS) / 1000} s`);
    const pids = [rig.supervisorPid, rig.hostPid];
    const usages = () => Promise.all([...pids, bare.pid ?? 0].map(usageOf));
    await sleep(WARM_UP_MS);
    const before = await usages();
    await sleep(MEASURED_MS);
    const after = await usages();
    const [supervisor = 0, host = 0, least = 0] = after.map(
      ({ cpuSeconds }, index) =>
        ((cpuSeconds - (before[index]?.cpuSeconds ?? 0)) / (MEASURED_MS / 1000)) * 100,
    );
    const memory = (await memoryOf(pids)) / 1e6;
    const cpu = supervisor + host;
    const ours = (what: string, unit: string, value: number, direct: number | null = null) => ({
      what: `idle, ${RUNNERS} runners: ${what}`,
      unit,
      ours: value,
      peer: null,
      direct,
    });
    return {
      figures: [
        ours('CPU, host (direct: the same asks by node:http alone)', '% of a core', host, least),
        ours('CPU, supervisor', '% of a core', supervisor),
        ours('memory of both, what they share counted once', 'MB', memory),
        ours('RSS, host', 'MB', (after[1]?.rssBytes ?? 0) / 1e6),
        ours('RSS, supervisor', 'MB', (after[0]?.rssBytes ?? 0) / 1e6),
      ],
      goals: [
        {
          what: `idle, ${RUNNERS} runners: below ${CPU_PERCENT} % of a core`,
          measured: `${cpu.toFixed(2)} %`,
          met: cpu < CPU_PERCENT,
        },
        {
          what: `idle, ${RUNNERS} runners: below ${MEMORY_MB} MB`,
          measured: `${memory.toFixed(0)} MB`,
          met: memory < MEMORY_MB,
        },
      ],
    };
  } finally {
    bare.kill('SIGKILL');
    await rig.end();
  }
}
