/** How long a machine takes from `boot()` to its guest's first call, beside the same QEMU started by hand. */

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmod,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rm,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { buildDebianGuest } from '../../fixtures/guest/debian/index.ts';
import { buildMicroGuest } from '../../fixtures/guest/micro/micro-guest.ts';
import {
  type Accelerator,
  findAccelerator,
} from '../../fixtures/host/src/drivers/qemu/accelerator.ts';
import { qemuArguments } from '../../fixtures/host/src/drivers/qemu/command-line.ts';
import { supportsDirectIo } from '../../fixtures/host/src/drivers/qemu/disk.ts';
import { QEMU } from '../../fixtures/host/src/drivers/qemu/index.ts';
import { substitute } from '../../fixtures/host/src/drivers/template.ts';
import { createLog, startHost } from '../../fixtures/host/src/index.ts';
import { createFakePlugin } from '../../fixtures/host/src/testing/fake-plugin.ts';
import { eventually } from '../support/deadline.ts';
import type { Bench, BenchReport, Figure, Goal } from './bench.ts';
import { CALL_LIMIT_MS, type Calls, listenForCalls } from './guest-calls.ts';

const run = promisify(execFile);

/** Each way once a round, in turns; the calmest counts, for the machine is not ours alone. */
const ROUNDS = { micro: 8, debian: 3 } as const;

/** Ours may take so much of what it takes by hand. */
const LIMIT = 1.1;

/** A machine from a snapshot may take so much of what ours takes cold. */
const RESTORED_LIMIT = { micro: 0.35, debian: 0.08 } as const;

const MIB = 1024 * 1024;

/** A guest, and the machine type that it is booted as. */
interface Guest {
  readonly name: keyof typeof ROUNDS;
  readonly kernel: {
    readonly path: string;
    readonly initrd: string;
    readonly command_line: string;
  };
  readonly image: string | null;
  readonly ramMib: number;
  readonly cpus: number;
}

/** Milliseconds from the beginning. */
interface Sample {
  readonly started: number;
  readonly called: number;
}

export const bench: Bench = {
  summary:
    "from boot() to the guest's first call, micro and Debian guest with dockerd, cold and from a snapshot",
  async run(progress): Promise<BenchReport> {
    const directory = await mkdtemp(path.join(tmpdir(), 'forrest-bench-boot-'));
    const calls = await listenForCalls();
    try {
      const figures: Figure[] = [];
      const goals: Goal[] = [];
      for (const guest of await guests(progress)) {
        const rig = await setUp(path.join(directory, guest.name), guest, calls);
        const ours: Sample[] = [];
        const byHand: Sample[] = [];
        const restored: Sample[] = [];
        progress(`${guest.name}: making its snapshot`);
        await makeSnapshot(rig);
        const rounds = ROUNDS[guest.name];
        for (let round = 1; round <= rounds; round += 1) {
          const ways = [
            async () => void ours.push(await bootOurs(rig.configFile, calls)),
            async () => void restored.push(await bootOurs(rig.snapshotConfigFile, calls)),
            async () => void byHand.push(await bootByHand(rig, calls)),
          ];
          if (round % 2 === 0) ways.reverse();
          for (const way of ways) await way();
          progress(
            `${guest.name}, round ${round} of ${rounds}: first call after ${last(ours)} ms, by hand ${last(byHand)} ms, restored ${last(restored)} ms`,
          );
        }
        figures.push(
          ...compare(`${guest.name}, cold`, rounds, ours, byHand),
          ...compare(`${guest.name}, restored`, rounds, restored, byHand),
        );
        goals.push(
          judge(`${guest.name}: first call`, LIMIT, 'what it takes by hand', ours, byHand),
          judge(
            `${guest.name}: restored`,
            RESTORED_LIMIT[guest.name],
            'our own cold start',
            restored,
            ours,
          ),
        );
      }
      return { peer: 'the same QEMU command by hand', figures, goals };
    } finally {
      calls.close();
      await rm(directory, { recursive: true, force: true });
    }
  },
};

async function guests(progress: (line: string) => void): Promise<Guest[]> {
  const runner = process.env['GITLAB_RUNNER'] ?? null;
  const micro = await buildMicroGuest({ runner });
  const debian = await buildDebianGuest({
    runner,
    helper: null,
    imageArchives: [],
    progress,
  });
  const quiet = 'console=ttyS0 quiet panic=-1';
  return [
    {
      name: 'micro',
      kernel: { path: micro.kernel, initrd: micro.initrd, command_line: quiet },
      image: null,
      ramMib: 1024,
      cpus: 1,
    },
    {
      name: 'debian',
      kernel: { path: debian.kernel, initrd: debian.initrd, command_line: debian.commandLine },
      image: debian.image,
      ramMib: 2048,
      cpus: 2,
    },
  ];
}

const DEBIAN_TEMPLATE = path.join(
  import.meta.dirname,
  '../../fixtures/guest/templates/gitlab-debian',
);

/** What the Debian guest's cloud-init files ask for besides the host's own. */
const SUBSTITUTIONS = { GITLAB_EXECUTOR: 'docker', DOCKER_REGISTRY_MIRROR: '' };

/** As the template's own `job.sh` has it. */
const DOCKER_UP = '[ -e /home/runner/config/wake.sh ] || systemctl start docker.service';

interface Rig {
  readonly directory: string;
  readonly guest: Guest;
  readonly template: string;
  readonly configFile: string;
  /** The same with snapshots. */
  readonly snapshotConfigFile: string;
  readonly accelerator: Accelerator;
}

async function setUp(directory: string, guest: Guest, calls: Calls): Promise<Rig> {
  const template = path.join(directory, 'template');
  await mkdir(path.join(template, 'job-config'), { recursive: true });
  if (guest.image !== null)
    for (const folder of ['cloud-init', 'snapshot']) {
      await cp(path.join(DEBIAN_TEMPLATE, folder), path.join(template, folder), {
        recursive: true,
      });
    }
  // Then it waits to be ended: only the way there is measured.
  const script = `#!/bin/bash
${guest.image === null ? '' : DOCKER_UP}
exec bash -c 'exec 3<> /dev/tcp/10.0.2.2/${calls.port}; printf "GET /<RUNNER_NAME> HTTP/1.0\\r\\n\\r\\n" >&3; cat <&3; sleep 600'
`;
  await writeFile(path.join(template, 'job-config/job.sh'), script);
  await chmod(path.join(template, 'job-config/job.sh'), 0o755);
  const configOf = (snapshot: boolean) => ({
    host: { base_dir: snapshot ? 'snapshots' : 'base', ram: `${guest.ramMib}M` },
    plugins: ['fake'],
    machines: {
      guest: {
        setup_template: { path: template },
        kernel: guest.kernel,
        ...(guest.image !== null && { base_image: guest.image, use_base: 'always' }),
        cpus: guest.cpus,
        ram: `${guest.ramMib}M`,
        disk: '8G',
        snapshot,
      },
    },
    fake: { machine: 'guest' },
  });
  const configFile = path.join(directory, 'cold.yaml');
  const snapshotConfigFile = path.join(directory, 'snapshot.yaml');
  await writeFile(configFile, JSON.stringify(configOf(false)));
  await writeFile(snapshotConfigFile, JSON.stringify(configOf(true)));
  const { accelerator } = await findAccelerator();
  return { directory, guest, template, configFile, snapshotConfigFile, accelerator };
}

/** As hosts make it by themselves when they start. */
async function makeSnapshot({ directory, snapshotConfigFile }: Rig): Promise<void> {
  const host = await startHost({
    configFile: snapshotConfigFile,
    log: createLog({ level: 'silent', format: 'json' }),
    plugins: { fake: createFakePlugin().plugin },
  });
  try {
    const parent = path.join(directory, 'snapshots/snapshots/_/guest');
    await eventually(
      'the snapshot',
      async () => {
        const names = await readdir(parent, { recursive: true }).catch(() => []);
        return names.some((name) => name.endsWith('complete.json') && !name.startsWith('.draft'));
      },
      CALL_LIMIT_MS,
    );
  } finally {
    await host.stop('end');
  }
}

let count = 0;

/** Through the host's contract, as a provider does. */
async function bootOurs(configFile: string, calls: Calls): Promise<Sample> {
  const fake = createFakePlugin();
  const host = await startHost({
    configFile,
    log: createLog({ level: 'silent', format: 'json' }),
    plugins: { fake: fake.plugin },
    powerDownMs: 1,
  });
  try {
    const room = await fake.reserve({
      machineType: 'guest',
      signal: AbortSignal.timeout(CALL_LIMIT_MS),
    });
    const runnerName = `bench-${++count}`;
    const begin = Date.now();
    const machine = room.boot({ runnerName, substitutions: SUBSTITUTIONS, metadata: null });
    const failed = machine.ended.then(({ detail }) => Promise.reject(new Error(detail)));
    const called = await Promise.race([calls.next(runnerName), failed]);
    failed.catch(() => undefined);
    return { started: (machine.bootedAt ?? begin) - begin, called: called - begin };
  } finally {
    await host.stop('end');
  }
}

/** What a person types: copy the image, make the two small disks, start QEMU. */
async function bootByHand(rig: Rig, calls: Calls): Promise<Sample> {
  const { guest } = rig;
  const runnerName = `bench-${++count}`;
  const directory = path.join(rig.directory, runnerName);
  await mkdir(directory);
  const begin = Date.now();
  const disks: string[] = [];
  if (guest.image !== null) {
    await run('cp', ['--sparse=always', guest.image, path.join(directory, 'disk.img')]);
    await truncate(path.join(directory, 'disk.img'), 8192 * MIB);
    disks.push('disk.img');
    disks.push(await fatDisk(rig, directory, runnerName, 'cloud-init', 'CIDATA'));
  }
  disks.push(await fatDisk(rig, directory, runnerName, 'job-config', 'JOBDATA'));
  const { command_line: commandLine, ...kernel } = guest.kernel;
  const args = qemuArguments({
    runnerName,
    accelerator: rig.accelerator,
    cpus: guest.cpus,
    ramBytes: guest.ramMib * MIB,
    kernel: { ...kernel, commandLine },
    disks,
    base: null,
    directIo: await supportsDirectIo(path.join(directory, 'job-config.img')),
    shared: [],
    snapshot: null,
  });
  const qemu: ChildProcess = spawn(QEMU, args, { cwd: directory, stdio: 'ignore' });
  await once(qemu, 'spawn');
  const started = Date.now();
  const exited = once(qemu, 'exit');
  const failed = exited.then(() =>
    Promise.reject(new Error(`QEMU ended: see ${directory}/log.txt`)),
  );
  try {
    const called = await Promise.race([calls.next(runnerName), failed]);
    return { started: started - begin, called: called - begin };
  } finally {
    failed.catch(() => undefined);
    qemu.kill('SIGKILL');
    await exited;
    await rm(directory, { recursive: true });
  }
}

async function fatDisk(
  { template }: Rig,
  directory: string,
  runnerName: string,
  folder: 'cloud-init' | 'job-config',
  label: string,
): Promise<string> {
  const rendered = path.join(directory, folder);
  await mkdir(rendered);
  const files: string[] = [];
  for (const name of await readdir(path.join(template, folder))) {
    const text = await readFile(path.join(template, folder, name), 'utf8');
    const values = { ...SUBSTITUTIONS, RUNNER_NAME: runnerName };
    files.push(path.join(rendered, name));
    await writeFile(path.join(rendered, name), substitute(text, values).text);
  }
  const image = path.join(directory, `${folder}.img`);
  await writeFile(image, '');
  await truncate(image, MIB);
  await run('mformat', ['-i', image, '-v', label, '::']);
  await run('mcopy', ['-i', image, ...files, '::']);
  return `${folder}.img`;
}

const calmest = (samples: readonly Sample[], key: keyof Sample): number =>
  Math.min(...samples.map((sample) => sample[key]));

const last = (samples: readonly Sample[]): number => Math.round(samples.at(-1)?.called ?? 0);

function compare(
  name: string,
  rounds: number,
  ours: readonly Sample[],
  byHand: readonly Sample[],
): Figure[] {
  return [
    ['QEMU runs', 'started'],
    ['first call', 'called'],
  ].map(([what, key]) => ({
    what: `${name}: ${what}, calmest of ${rounds}`,
    unit: 'ms',
    ours: calmest(ours, key as keyof Sample),
    peer: calmest(byHand, key as keyof Sample),
  }));
}

function judge(
  what: string,
  limit: number,
  than: string,
  one: readonly Sample[],
  other: readonly Sample[],
): Goal {
  const ratio = calmest(one, 'called') / calmest(other, 'called');
  return {
    what: `${what} after at most ${limit} times of ${than}`,
    measured: `${ratio.toFixed(3)} times`,
    met: ratio <= limit,
  };
}
