/** A run: two hosts, a stream of jobs, one fault a round; then everything drains, and is judged. */

import { randomBytes } from 'node:crypto';
import { cp, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { startGitlabSimulator } from '../../fixtures/gitlab/index.ts';
import { sendSignal } from '../../fixtures/host/src/drivers/proc.ts';
import { eventually } from '../support/deadline.ts';
import { armLost201, type Field, Missed, strike } from './faults.ts';
import { ChaosHost } from './host.ts';
import type { Guests } from './host-config.ts';
import { PROJECT, PROJECT_FILES, plansOf } from './jobs.ts';
import { isClean, judge, type Summary, SWEPT, type Verdict } from './judge.ts';
import { processesOf } from './leaks.ts';
import { LIMITS, rejectedOnAbort } from './limits.ts';
import { drawSchedule, type PlannedJob, type Round } from './schedule.ts';
import { mountSmallDisk, type SmallDisk } from './small-disk.ts';
import { stopAndMeasure } from './stop.ts';
import { TrackedJob } from './tracked.ts';
import { startWitness, type Witness } from './witness.ts';
import { writeDown } from './write-down.ts';

export interface ChaosOptions {
  readonly seed: number;
  readonly rounds: number;
  readonly guests: Guests;
  /** Of each job: see the facts about it. */
  readonly mayBeginUnheard: boolean;
  /** What the whole run may take; beyond, something hangs. */
  readonly limitMs: number;
  readonly signal: AbortSignal;
  say(line: string): void;
}

export interface ChaosResult extends Verdict {
  readonly clean: boolean;
  /** Where everything is kept; null where all is well and nothing is. */
  readonly directory: string | null;
}

/** Jobs that are not over before the next round waits. */
const MOST_OPEN_JOBS = 8;
const JOBS_PER_ROUND = { process: 3, qemu: 2 };

const STARTING = 'its hosts to be ready';

const PROGRESS_MS = 20_000;

/** A job that nobody speaks for after so long was never received: GitLab's sweep takes longer. */
const UNHEARD_MS = 15_000;

export async function runChaos(options: ChaosOptions): Promise<ChaosResult> {
  // Short: sockets in there have a path of at most 107 bytes.
  const directory = await mkdtemp(path.join(tmpdir(), 'chaos-'));
  const late = new AbortController();
  const signal = AbortSignal.any([options.signal, late.signal]);
  const run = new ChaosRun({ ...options, signal }, directory);
  const limit = setTimeout(() => {
    const within = `the run did not end within ${options.limitMs / 1000} s`;
    late.abort(new Error(`${within}: it waits for ${run.waitsFor()}`));
  }, options.limitMs);
  let result: ChaosResult | undefined;
  try {
    result = await Promise.race([run.run(), rejectedOnAbort(signal)]);
    return result;
  } catch (error) {
    // Ctrl-C reaches the hosts too: what they make of it is no finding.
    signal.throwIfAborted();
    throw error;
  } finally {
    clearTimeout(limit);
    await run.tearDown(result?.clean === true || options.signal.aborted);
  }
}

class ChaosRun {
  readonly #options: ChaosOptions;
  readonly #directory: string;
  readonly #hosts: ChaosHost[] = [];
  readonly #disks = new Map<ChaosHost, SmallDisk>();
  readonly #jobs = new Map<number, TrackedJob>();
  readonly #struck: Partial<Record<keyof Summary['faults'], number>> = {};
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #startedAt = performance.now();
  #field: Field | undefined;
  #witness: Witness | undefined;
  #queued = 0;
  #settingUp: Promise<void> = Promise.resolve();
  #step = STARTING;

  constructor(options: ChaosOptions, directory: string) {
    this.#options = options;
    this.#directory = directory;
  }

  /** For whoever asks why it takes so long. */
  waitsFor(): string {
    const open = this.#field === undefined ? [] : this.#open();
    return open.length === 0 ? this.#step : `${this.#step}; not over yet: ${listOf(open)}`;
  }

  async #setUp(): Promise<void> {
    const { guests, signal } = this.#options;
    const simulator = await startGitlabSimulator({
      relativeUrl: '/gitlab',
      timings: { watchedMs: 3_600_000 },
    });
    simulator.createProject({ path: PROJECT, files: PROJECT_FILES });
    const runner = simulator.createRunner({ description: 'chaos', runUntagged: true });
    this.#field = {
      driver: guests.driver,
      simulator,
      hosts: this.#hosts,
      disks: this.#disks,
      jobs: this.#jobs,
      windows: [],
    };
    this.#witness = await startWitness();
    const webhookSecret = randomBytes(18).toString('base64url');
    for (const name of ['a', 'b']) {
      const disk = await mountSmallDisk(path.join(this.#directory, name, 'state'));
      const host = await ChaosHost.create({
        ...{ directory: this.#directory, name, guests, webhookSecret },
        gitlabUrl: simulator.url,
        runnerToken: runner.token,
      }).catch(async (error: unknown) => {
        await disk?.unmount();
        throw error;
      });
      this.#hosts.push(host);
      // As a hook of a project would: whether the host is there or not.
      simulator.addHook({
        url: `unix:${path.join(host.baseDir, 'api.sock')}:/gitlab/webhook`,
        secret: webhookSecret,
      });
      if (disk !== null) this.#disks.set(host, disk);
      signal.throwIfAborted();
      await host.start();
    }
    if (this.#disks.size === 0)
      this.#say('no full disks in this run: that needs the right to mount');
    // Half of the logs are looked at: those runners speak every 3 s, the others once a minute.
    simulator.onChange((job) => {
      if (job.status === 'running' && job.id % 2 === 0 && job.watchedUntil === 0) {
        simulator.watchLog(job.id);
      }
    });
  }

  async run(): Promise<ChaosResult> {
    this.#settingUp = this.#setUp();
    await this.#settingUp;
    const { seed, rounds, guests } = this.#options;
    const jobsPerRound = JOBS_PER_ROUND[guests.driver];
    const schedule = drawSchedule({ seed, rounds, jobsPerRound });
    for (const [index, round] of schedule.entries()) {
      if (await this.#round(index, round)) continue;
      this.#say(`no further rounds: more than ${MOST_OPEN_JOBS} jobs do not end`);
      break;
    }
    this.#say('draining');
    await this.#drain();
    this.#step = 'its hosts to stop';
    const leaked = await stopAndMeasure(this.#hosts, {
      directory: this.#directory,
      limitMs: LIMITS[guests.driver].reachMs,
      say: (line) => this.#say(line),
    });
    const { simulator, windows } = this.#fieldOf();
    const witness = this.#witnessOf();
    const { mayBeginUnheard } = this.#options;
    const context = { hosts: this.#hosts, simulator, witness, windows, mayBeginUnheard };
    const verdict = judge({
      ...{ seed, rounds, faults: this.#struck, leaked },
      jobs: [...this.#jobs.values()].map((job) => job.facts(context)),
    });
    const clean = isClean(verdict);
    return { ...verdict, clean, directory: clean ? null : this.#directory };
  }

  /** True once there is room for the next jobs. */
  async #round(index: number, { jobs, fault }: Round): Promise<boolean> {
    const { signal, guests } = this.#options;
    const field = this.#fieldOf();
    signal.throwIfAborted();
    const armed = fault.kind === 'lost-201' ? this.#attempt(() => armLost201(field)) : null;
    const queued: TrackedJob[][] = [];
    for (const job of jobs) {
      await sleep(job.gapMs, undefined, { signal });
      queued.push(this.#queue(job));
    }
    const stages = queued[fault.job] ?? [];
    const job = stages[fault.stage] ?? stages[0];
    if (job === undefined) throw new Error('a round without jobs');
    const where = `round ${index + 1}: ${fault.kind}`;
    this.#step = `${where}, on job ${job.job.id} once it is ${fault.state}`;
    let missed: string | null;
    if (armed !== null) {
      missed = await armed;
      this.#say(`${where}${missed === null ? '' : `: ${missed}`}`);
    } else {
      const reached = await eventually(
        `job ${job.job.id} to be ${fault.state}`,
        () => job.hasReached(fault.state, this.#hosts),
        LIMITS[guests.driver].reachMs,
      ).catch(() => false);
      await sleep(fault.afterMs, undefined, { signal });
      const host = job.hostOf(this.#hosts) ?? this.#hosts[fault.host] ?? this.#hosts[0];
      if (host === undefined) throw new Error('a run without hosts');
      this.#say(
        `${where} on ${host.name}, job ${job.job.id} ${job.job.name} ${reached ? fault.state : `never ${fault.state}`}`,
      );
      missed = await this.#attempt(() => strike(fault, { job, host }, field));
      if (missed !== null) this.#say(`${where} hit nothing: ${missed}`);
    }
    if (missed === null) this.#struck[fault.kind] = (this.#struck[fault.kind] ?? 0) + 1;
    this.#step = `room for the jobs after ${where}`;
    return eventually(
      'room for the next jobs',
      () => this.#open().length <= MOST_OPEN_JOBS || signal.aborted,
      LIMITS[guests.driver].drainMs,
    ).catch(() => false);
  }

  /** Null, or why there was nothing to hit. */
  async #attempt(fault: () => Promise<void>): Promise<string | null> {
    try {
      await fault();
      return null;
    } catch (error) {
      if (error instanceof Missed) return error.message;
      throw error;
    }
  }

  #queue(planned: PlannedJob): TrackedJob[] {
    const { simulator } = this.#fieldOf();
    const witnessHost = this.#options.guests.driver === 'qemu' ? '10.0.2.2' : '127.0.0.1';
    this.#queued += 1;
    const plans = plansOf(planned, this.#queued, `${witnessHost}/${this.#witnessOf().port}`);
    const queued = simulator.queuePipeline({ stages: plans.map(({ spec }) => [spec]) });
    const jobs = plans.map((plan, index) => new TrackedJob(queued[index]!, plan));
    for (const job of jobs) this.#jobs.set(job.job.id, job);
    if (planned.cancelAfterMs !== null) {
      const cancel = (): void => jobs.find((job) => !job.job.isFinal)?.cancel(simulator);
      this.#timers.add(setTimeout(cancel, planned.cancelAfterMs));
    }
    return jobs;
  }

  /** Jobs that are not over, but for those that nobody has ever heard of. */
  #open(): TrackedJob[] {
    const { simulator, windows } = this.#fieldOf();
    return [...this.#jobs.values()].filter((tracked) => {
      const { job } = tracked;
      if (job.isFinal) return false;
      const unheard =
        job.startedAt !== null &&
        Date.now() - job.startedAt > UNHEARD_MS &&
        tracked.answerMayBeLost(windows) &&
        !tracked.isReceived(this.#hosts, simulator);
      // What GitLab's own sweep would do, much later.
      if (unheard) job.drop(SWEPT, Date.now());
      return !unheard;
    });
  }

  /** Until every job is over, or for as long as that may take. */
  async #drain(): Promise<void> {
    const { guests, signal } = this.#options;
    const done = () => this.#open().length === 0 || signal.aborted;
    const list = (): string => listOf(this.#open());
    this.#step = 'all jobs to end';
    const progress = setInterval(() => this.#say(`not over yet: ${list()}`), PROGRESS_MS);
    await eventually('all jobs to end', done, LIMITS[guests.driver].drainMs)
      .catch(() => this.#say(`giving up on ${list()}`))
      .finally(() => clearInterval(progress));
    signal.throwIfAborted();
  }

  /** Ends everything. `forget`: nobody needs its files. */
  async tearDown(forget: boolean): Promise<void> {
    for (const timer of this.#timers) clearTimeout(timer);
    // Whatever works in a directory of this run is of this run.
    const killAll = (): void =>
      processesOf(this.#directory).forEach((pid) => void sendSignal(pid, 'SIGKILL'));
    // A host that is not ready yet is nobody's.
    if (this.#step === STARTING) killAll();
    await this.#settingUp.catch(() => undefined);
    for (const host of this.#hosts) await host.killEverything();
    killAll();
    if (!forget && this.#field !== undefined) {
      await writeDown(this.#field.simulator, this.#directory);
    }
    for (const [host, disk] of this.#disks) {
      if (!forget) await cp(host.stateDir, `${host.stateDir}-kept`, { recursive: true });
      await disk.unmount();
    }
    await this.#witness?.close();
    await this.#field?.simulator.close();
    if (forget) await rm(this.#directory, { recursive: true, force: true });
    else this.#say(`kept for a look: ${this.#directory}`);
  }

  #fieldOf(): Field {
    if (this.#field === undefined) throw new Error('the run was not set up');
    return this.#field;
  }

  #witnessOf(): Witness {
    if (this.#witness === undefined) throw new Error('the run was not set up');
    return this.#witness;
  }

  #say(text: string): void {
    const seconds = ((performance.now() - this.#startedAt) / 1000).toFixed(1).padStart(6);
    this.#options.say(`${seconds} s  ${text}`);
  }
}

function listOf(jobs: readonly TrackedJob[]): string {
  return jobs.map(({ job }) => `${job.id} ${job.name} ${job.status}`).join(', ');
}
