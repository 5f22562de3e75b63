/** QEMU's options, each beside those that machines have: the micro guest up to its first call. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { buildMicroGuest, type MicroGuest } from '../../fixtures/guest/micro/micro-guest.ts';
import {
  type Accelerator,
  findAccelerator,
} from '../../fixtures/host/src/drivers/qemu/accelerator.ts';
import { qemuArguments } from '../../fixtures/host/src/drivers/qemu/command-line.ts';
import { supportsDirectIo } from '../../fixtures/host/src/drivers/qemu/disk.ts';
import { makeFatImage } from '../../fixtures/host/src/drivers/qemu/fat-image.ts';
import { QEMU } from '../../fixtures/host/src/drivers/qemu/index.ts';
import type { Bench, BenchReport } from './bench.ts';
import { type Calls, listenForCalls } from './guest-calls.ts';

const ROUNDS = 5;

/** By so much another option would have to be better to be worth a look. */
const WORTH = 0.85;

const RAM_BYTES = 1024 * 1024 * 1024;

const TICK_MS = 10;

type Change = (args: readonly string[]) => string[];

/** Another value for an option, where ours matches. */
const instead =
  (option: string, from: RegExp, to: string): Change =>
  (args) =>
    args.map((value, index) => (args[index - 1] === option ? value.replace(from, to) : value));

const more =
  (...added: string[]): Change =>
  (args) => [...args, ...added];

const memory = (backend: string): Change => {
  const added = [
    '-object',
    `${backend},id=ram,size=${RAM_BYTES}`,
    '-machine',
    'memory-backend=ram',
  ];
  return more(...added);
};

const OPTIONS: Readonly<Record<string, Change>> = {
  '-machine pc': (args) =>
    instead('-machine', /^q35/, 'pc')(args.filter((part) => part !== NO_S3 && part !== '-global')),
  '-machine without hpet, smbus, sata, i8042, vmport': more(
    '-machine',
    'hpet=off,smbus=off,sata=off,i8042=off,vmport=off',
  ),
  '-cpu max': instead('-cpu', /.*/, 'max'),
  '-cpu EPYC': instead('-cpu', /.*/, 'EPYC,check=off'),
  '-cpu qemu64': instead('-cpu', /.*/, 'qemu64'),
  'memory-backend-memfd': memory('memory-backend-memfd'),
  'memory-backend-ram,prealloc=on': memory('memory-backend-ram,prealloc=on'),
  'aio=io_uring': instead('-drive', /$/, ',aio=io_uring'),
  'cache.direct the other way': (args) =>
    args.map((part) =>
      part.replace(
        /cache\.direct=(on|off)/,
        (_, now) => `cache.direct=${now === 'on' ? 'off' : 'on'}`,
      ),
    ),
  'no virtio-rng': (args) =>
    args.filter((part, index) => !/rng/.test(`${part} ${args[index + 1]}`)),
  'no -sandbox': (args) =>
    args.filter((part, index) => part !== '-sandbox' && args[index - 1] !== '-sandbox'),
  'kernel: nokaslr': instead('-append', /$/, ' nokaslr'),
  'kernel: mitigations=off': instead('-append', /$/, ' mitigations=off'),
  'kernel: tsc=reliable': instead('-append', /$/, ' tsc=reliable'),
};

const NO_S3 = 'ICH9-LPC.disable_s3=1';

interface Sample {
  readonly cpuMs: number;
  readonly wallMs: number;
}

interface Way {
  readonly name: string;
  readonly change: Change;
  readonly samples: Sample[];
}

export const bench: Bench = {
  summary: "the micro guest's boot with other options of QEMU than machines have",
  async run(progress): Promise<BenchReport> {
    const directory = await mkdtemp(path.join(tmpdir(), 'forrest-bench-options-'));
    const calls = await listenForCalls();
    const guest = await buildMicroGuest({ runner: null });
    const { accelerator } = await findAccelerator();
    const ways: readonly Way[] = [
      { name: 'as machines have them', change: (args) => [...args], samples: [] },
      ...Object.entries(OPTIONS).map(([name, change]) => ({ name, change, samples: [] })),
    ];
    try {
      for (let round = 1; round <= ROUNDS; round += 1) {
        for (const { name, change, samples } of round % 2 === 0 ? ways.toReversed() : ways) {
          const sample = await boot(directory, guest, accelerator, change, calls);
          samples.push(sample);
          progress(`${name}, round ${round} of ${ROUNDS}: ${sample.cpuMs} ms of processor time`);
        }
      }
    } finally {
      calls.close();
      await rm(directory, { recursive: true, force: true });
    }
    const least = (samples: readonly Sample[], key: keyof Sample): number =>
      Math.min(...samples.map((sample) => sample[key]));
    const [ours, ...others] = ways;
    const ourSamples = ours?.samples ?? [];
    const cpuMs = least(ourSamples, 'cpuMs');
    const better = others.filter(({ samples }) => least(samples, 'cpuMs') < WORTH * cpuMs);
    return {
      peer: 'as machines have them',
      figures: others.flatMap(({ name, samples }) =>
        (['cpuMs', 'wallMs'] as const).map((key) => ({
          what: `${name}: ${key === 'cpuMs' ? 'processor time' : 'time'}, least of ${ROUNDS}`,
          unit: 'ms',
          ours: least(samples, key),
          peer: least(ourSamples, key),
        })),
      ),
      goals: [
        {
          what: `no option takes less than ${WORTH} times of the processor time (${accelerator})`,
          measured: better.map(({ name }) => name).join(', ') || 'none does',
          met: better.length === 0,
        },
      ],
    };
  },
};

let count = 0;

async function boot(
  parent: string,
  guest: MicroGuest,
  accelerator: Accelerator,
  change: Change,
  calls: Calls,
): Promise<Sample> {
  const runnerName = `options-${++count}`;
  const directory = path.join(parent, runnerName);
  await mkdir(path.join(directory, 'job'), { recursive: true });
  const call = `exec 3<> /dev/tcp/10.0.2.2/${calls.port}; printf "GET /${runnerName} HTTP/1.0\\r\\n\\r\\n" >&3; cat <&3; sleep 600`;
  await writeFile(path.join(directory, 'job/job.sh'), `exec bash -c '${call}'\n`);
  const disk = path.join(directory, 'job-config.img');
  await makeFatImage(disk, 'JOBDATA', path.join(directory, 'job'));
  const args = qemuArguments({
    runnerName,
    accelerator,
    cpus: 1,
    ramBytes: RAM_BYTES,
    kernel: {
      path: guest.kernel,
      initrd: guest.initrd,
      commandLine: 'console=ttyS0 quiet panic=-1',
    },
    disks: ['job-config.img'],
    base: null,
    directIo: await supportsDirectIo(disk),
    shared: [],
    snapshot: null,
  });
  const qemu = spawn(QEMU, change(args), {
    cwd: directory,
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const begin = Date.now();
  const exited = once(qemu, 'exit');
  const failed = exited.then(() => Promise.reject(new Error('QEMU ended before its guest called')));
  try {
    const called = await Promise.race([calls.next(runnerName), failed]);
    const stat = await readFile(`/proc/${qemu.pid}/stat`, 'utf8');
    const [user, system] = stat
      .slice(stat.lastIndexOf(')') + 2)
      .split(' ')
      .slice(11, 13);
    return { cpuMs: (Number(user) + Number(system)) * TICK_MS, wallMs: called - begin };
  } finally {
    failed.catch(() => undefined);
    qemu.kill('SIGKILL');
    await exited;
    await rm(directory, { recursive: true });
  }
}
