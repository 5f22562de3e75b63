/** `npm run chaos`: faults on a schedule made from a seed, and what came of every job. */

import { randomInt } from 'node:crypto';
import { parseArgs } from 'node:util';
import { buildMicroGuest } from '../../fixtures/guest/micro/micro-guest.ts';
import { reportFailure, UsageError } from '../../fixtures/lib/wrong-use.ts';
import { findGuestRunner, type GuestRunner } from '../../fixtures/main-job/runner.ts';
import { runChaos } from './chaos.ts';
import type { Guests } from './host-config.ts';
import type { Summary } from './judge.ts';
import { limitOf } from './limits.ts';

const USAGE = `npm run chaos -- [options]

Two hosts on one runner token, a GitLab simulator, a stream of jobs, and one fault a round: processes killed
or stopped, machines and their runners killed, GitLab out in several ways, a damaged journal, a full disk.
In the end every job must have ended once, as its script did where nothing hit it, with its log whole, and
nothing must be left.

  --seed N          which schedule of jobs and faults (default: drawn, and printed)
  --rounds N        how many faults (default: 15: one of each kind)
  --driver DRIVER   process (the default) or qemu: virtual machines with the micro guest
  --limit SECONDS   what the whole run may take; beyond, it says what it waits for, and fails
                    (default: 4.5 min and 30 s a round; with qemu 17 min and 2 min a round)
  --json            one JSON object on stdout, and nothing else there
  --help            this text

Environment: GITLAB_RUNNER, a gitlab-runner binary for the guests (default: the stand-in).
Full disks need the right to mount (root). Inside a virtual machine no runner can be killed from outside.
Exit codes: 0 all is well, 1 not so, 2 wrong use.
`;

interface Arguments {
  readonly seed: number;
  readonly rounds: number;
  readonly driver: 'process' | 'qemu';
  /** Seconds; null: what the driver takes. */
  readonly limit: number | null;
  readonly json: boolean;
  readonly help: boolean;
}

function readArguments(): Arguments {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string' },
      rounds: { type: 'string', default: '15' },
      driver: { type: 'string', default: 'process' },
      limit: { type: 'string' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  const { driver, json, help } = values;
  if (driver !== 'process' && driver !== 'qemu') {
    throw new UsageError(`--driver ${driver}: must be process or qemu`);
  }
  return {
    seed: readNumber('--seed', values.seed ?? String(randomInt(1, 1_000_000)), 2 ** 31 - 1),
    rounds: readNumber('--rounds', values.rounds, 10_000),
    limit: values.limit === undefined ? null : readNumber('--limit', values.limit, 1_000_000),
    ...{ driver, json, help },
  };
}

function readNumber(option: string, text: string, most: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
  if (!(value >= 1 && value <= most)) {
    throw new UsageError(`${option} ${text}: must be a whole number from 1 to ${most}`);
  }
  return value;
}

async function prepareGuests(driver: Arguments['driver'], runner: GuestRunner): Promise<Guests> {
  if (driver === 'process') return { driver, runner: runner.command };
  const binary = runner.kind === 'official' ? runner.command : null;
  return { driver, ...(await buildMicroGuest({ runner: binary })) };
}

function format(summary: Summary): string {
  const { faults, leaked, ...rest } = summary;
  const lines = Object.entries({ ...rest, ...leaked }).map(
    ([what, count]) => `${what.padEnd(16)} ${count}`,
  );
  const struck = Object.entries(faults).map(([kind, count]) => `${kind} ${count}`);
  return [...lines, `faults           ${struck.join(', ')}`].join('\n');
}

async function main(): Promise<number> {
  const { seed, rounds, driver, limit, json, help } = readArguments();
  if (help) {
    process.stdout.write(USAGE);
    return 0;
  }
  console.error(`seed ${seed}, ${rounds} rounds, driver ${driver}`);
  const runner = await findGuestRunner(process.env['GITLAB_RUNNER']);
  console.error(`guests run the ${runner.kind} runner, ${runner.version}`);
  const stop = new AbortController();
  const onSignal = (): void => stop.abort(new Error('interrupted'));
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  const { summary, violations, clean } = await runChaos({
    ...{ seed, rounds, signal: stop.signal },
    limitMs: limit === null ? limitOf(driver, rounds) : limit * 1000,
    guests: await prepareGuests(driver, runner),
    // Its version would not tell: one that is built from source names none.
    mayBeginUnheard: runner.kind === 'official',
    say: (line) => console.error(line),
  });
  console.log(json ? JSON.stringify(summary, null, 2) : format(summary));
  for (const violation of violations) console.error(`not as it must be: ${violation}`);
  if (!clean) {
    console.error(`again: npm run chaos -- --seed ${seed} --rounds ${rounds} --driver ${driver}`);
  }
  return clean ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  process.exitCode = reportFailure(error, 'npm run chaos');
}
// What hangs must not hold it up for ever.
setTimeout(() => process.exit(), 5000).unref();
