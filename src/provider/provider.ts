/** The composition root: builds every part in order and starts and stops them in order. */

import path from 'node:path';
import { Backoff, Claimer, createWebhookHandler } from '../claimer/index.ts';
import type { GitlabConfig, RunnerConfig } from '../config/index.ts';
import type { ListenTarget, Provider, ProviderHost, ProviderStatus } from '../contract/index.ts';
import { ForrestGitlabError } from '../errors.ts';
import { type GitlabClient, type JobFacts, knownFeatures, readPayload } from '../gitlab/index.ts';
import { type Checkpoint, createFileJournal, JournalWriter, Leases } from '../leases/index.ts';
import { type Clock, sleep } from '../lib/clock.ts';
import { describeError } from '../lib/errors.ts';
import type { Randomness } from '../lib/random.ts';
import { createProxyServer, Held, type ProxyLimits } from '../proxy/index.ts';
import type { Fetch } from '../upstream/index.ts';
import { toMetadata, WarmMachines } from '../warm/index.ts';
import { cloneUrlOf, createBootSpec, digestOf, type GuestSettings } from './boot-spec.ts';
import { createGitlabAccess, runnerInfo } from './gitlab-access.ts';
import { healthOf } from './health.ts';
import { newIdentity } from './identity.ts';
import { createMaskingLog } from './log.ts';
import { createProviderMetrics } from './metrics.ts';
import { Pauses } from './pauses.ts';
import { loadSystemId } from './system-id.ts';
import { warnOfExpiry } from './token-expiry.ts';

/** The seams, complete. */
export interface CompleteSeams extends Randomness {
  readonly clock: Clock;
  readonly fetch: Fetch | undefined;
  readonly limits: Partial<ProxyLimits> | undefined;
  readonly checkpoint: Checkpoint;
}

export function createProvider(
  host: ProviderHost,
  initial: GitlabConfig,
  seams: CompleteSeams,
): Provider<GitlabConfig> {
  const { clock } = seams;
  let config = initial;
  let listening: ListenTarget | undefined;
  let systemId = '';
  /** As it is configured; one that is not any more, as it was when its last request began. */
  const runnerOf = (name: string): RunnerConfig | undefined =>
    config.runners.find((runner) => runner.name === name) ??
    [...leaving.keys()].find((claimer) => claimer.name === name)?.settings;

  // What watches: a log that masks tokens, and metrics.
  const metrics = createProviderMetrics(
    host.metrics,
    {
      systemId: () => systemId,
      runners: () => config.runners,
      leases: () => leases.all(),
      warm: (runner) => warm.of(runner),
      expiries: () => claimers.map((claimer) => claimer.row()),
    },
    () => clock.monotonic(),
  );
  const log = createMaskingLog(host.log, (level) => metrics.logged(level));

  // The way to GitLab, for our own calls and for the guests'.
  const { upstream, clientFor, health } = createGitlabAccess(
    config,
    clock,
    host.proxyEnv,
    seams.fetch,
  );
  const ofRunner = (name: string): GitlabClient => clientFor((call) => metrics.called(name, call));
  const ofJobs = clientFor((call) => {
    const lease = call.jobId === null ? undefined : leases.byJob(call.jobId);
    if (lease !== undefined) metrics.called(lease.runner, call);
  });

  health.onChange((since) => {
    metrics.out(since);
    if (since === null) {
      log.info('GitLab answers again');
      backoff.reset();
      for (const claimer of claimers) claimer.gitlabIsBack();
      warm.look();
    } else {
      log.warn('GitLab is out: calls of machines wait for it', { reason: health.reason });
    }
    host.changed();
  });

  // What is written down before anything follows from it.
  const entries = metrics.measure(
    createFileJournal(path.join(host.stateDir, 'leases'), log, () =>
      seams.checkpoint('entry-drafted'),
    ),
  );
  const journal = new JournalWriter(entries, {
    clock,
    timings: config.timings,
    log,
    changed: () => wakeClaimers(),
  });

  // What a machine is told, as things are now.
  let knownCloneUrl: string | null = null;
  const settingsOf = (runner: RunnerConfig, cloneUrl: string): GuestSettings => {
    if (listening === undefined) throw new Error('no machine before there is a listener for it');
    return { runner, config, port: listening.port, cloneUrl };
  };
  const cloneUrlFor = (job: JobFacts | null): string =>
    config.cloneUrl ?? ((job !== null && cloneUrlOf(job)) || (knownCloneUrl ?? config.url));

  // Claimed jobs and their machines: here claimers and proxy meet.
  const leases = new Leases({
    clock,
    gitlab: ofJobs,
    entries,
    journal,
    pool: host.pool,
    timings: config.timings,
    log,
    get consoleTail() {
      return config.consoleTail;
    },
    checkpoint: seams.checkpoint,
    readPayload,
    newIdentity: (runner) => newIdentity(runner, runnerOf(runner)?.tokenFile, seams),
    bootSpec(lease) {
      const runner = runnerOf(lease.runner);
      if (runner === undefined) {
        throw new ForrestGitlabError('runner_unknown', `no runner ${lease.runner} is configured`);
      }
      const settings = settingsOf(runner, config.cloneUrl ?? cloneUrlOf(lease.facts));
      return createBootSpec(lease, settings, { job: lease.facts.id, runner: lease.runner });
    },
    mayPersist(lease) {
      const persist = runnerOf(lease.runner)?.persist ?? 'never';
      return persist === 'always' || (persist === 'protected' && lease.facts.protected);
    },
    machineTypeOf: (runner) => runnerOf(runner)?.machineType.name,
    changed: () => host.changed(),
    ended(lease) {
      metrics.ended(lease);
      host.jobEnded(lease.row());
      claimers.find(({ name }) => name === lease.runner)?.jobEnded();
      wakeClaimers();
    },
    closed: (vmToken) => proxy.end(vmToken),
  });

  // Machines that wait for jobs.
  const warm = new WarmMachines({
    clock,
    random: seams.random,
    timings: config.timings,
    pool: host.pool,
    log,
    checkpoint: seams.checkpoint,
    wishes: () =>
      config.runners.map((runner) => ({ runner, count: isWarm(runner) ? mostWarm(runner) : 0 })),
    get problem() {
      return journal.problem;
    },
    newIdentity: (runner) => newIdentity(runner, runnerOf(runner)?.tokenFile, seams),
    settings(runner) {
      const cloneUrl = cloneUrlFor(null);
      return { settings: digestOf(settingsOf(runner, cloneUrl)), cloneUrl };
    },
    bootSpec: (runner, identity, facts) =>
      createBootSpec(identity, settingsOf(runner, facts.cloneUrl), toMetadata(facts), true),
    cloneUrlOf: cloneUrlFor,
    closed: (vmToken) => proxy.end(vmToken),
    changed: () => host.changed(),
    ended: metrics.warmEnded,
  });
  const isWarm = ({ name }: RunnerConfig): boolean =>
    claimers.some((claimer) => claimer.name === name && claimer.keepsWarm);
  /** Jobs come first: a runner has never more machines than `limit`. */
  const mostWarm = ({ name, limit, warm: most }: RunnerConfig): number =>
    Math.max(0, Math.min(most, limit - leases.countOf(name)));

  // What guests talk to.
  const proxy = createProxyServer({
    leases,
    warm,
    upstream,
    timings: config.timings,
    limits: seams.limits,
    log,
    clock,
    health,
    held: new Held((count) => metrics.held(count)),
    monotonic: () => clock.monotonic(),
    knownFeatures,
    describeFailure: describeError,
    failed: metrics.failed,
    forwarded: metrics.forwarded,
  });

  // What asks for jobs: one claimer per runner, with one back-off for this GitLab.
  const backoff = new Backoff(config.timings, seams, clock);
  const pauses = new Pauses(host.stateDir);
  let claimers: Claimer[] = [];
  /** Not before what an earlier run left is known, and not once a stop or a drain has begun. */
  let isClaiming = false;
  /** Their runners are configured no more, and a request or claim of theirs may still be under way. */
  const leaving = new Map<Claimer, Promise<void>>();
  const wakeClaimers = (): void => {
    for (const claimer of claimers) claimer.wake();
    warm.look();
    host.changed();
  };
  const createClaimer = (runner: RunnerConfig): Claimer =>
    new Claimer(runner, config, pauses.has(runner.name), {
      clock,
      gitlab: ofRunner(runner.name),
      leases: {
        countOf: (name) => leases.countOf(name),
        refuse: (name, job, reason) => leases.refuse(name, job, reason),
        get problem() {
          return journal.problem;
        },
        async claim(name, job, place) {
          const lease = await leases.claim(name, job, place);
          knownCloneUrl = cloneUrlFor(job.facts);
          warm.look();
          log.info(`runner ${name} claimed job ${job.facts.id}`, { machine: lease.runnerName });
          return lease;
        },
      },
      pool: host.pool,
      warm: {
        pin: (name, token) => warm.pin(name, token),
        look: () => warm.look(),
        row(name) {
          const count = runnerOf(name)?.warm ?? 0;
          if (count === 0) return undefined;
          return { ready: warm.of(name).filter(({ isReady }) => isReady).length, wanted: count };
        },
      },
      checkpoint: seams.checkpoint,
      backoff,
      log,
      systemId,
      info: (settings) =>
        runnerInfo(settings, leases.learnedFeatures(settings.name, settings.executor.name)),
      changed: () => host.changed(),
      asked: metrics.asked,
      expiry: (name, expiresAt) => warnOfExpiry(name, expiresAt, clock.now(), log),
    });
  const dismiss = (claimer: Claimer): void => {
    const stopped = claimer.stop().finally(() => leaving.delete(claimer));
    leaving.set(claimer, stopped);
  };
  const stopClaiming = async (): Promise<void> => {
    isClaiming = false;
    await Promise.all([...claimers.map((claimer) => claimer.stop()), ...leaving.values()]);
  };

  const routes = createWebhookHandler({
    secret: () => config.webhookSecret,
    jobPending() {
      for (const claimer of claimers) claimer.expectJob();
    },
    answered: metrics.webhook,
  });

  return {
    routes,

    async start() {
      systemId = await loadSystemId(host.stateDir, host.hostName, seams, log);
      await pauses.load(log);
      listening = await host.listen('guests', config.listen).catch(nameKey);
      // Nothing is answered from an unrecovered state: one early 403 would end a live job.
      const others = warm.load(await leases.load(host.pool.machines()));
      for (const machine of others) machine.stop('no job is known for it');
      knownCloneUrl = warm.knownCloneUrl;
      metrics.recovered(leases.all().length);
      proxy.accept(listening);
      leases.resume();
      await journal.check();
      isClaiming = true;
      claimers = config.runners.map(createClaimer);
      for (const claimer of claimers) claimer.start();
      warm.begin();
      log.info(
        `serving GitLab ${config.url} with ${claimers.length} ${claimers.length === 1 ? 'runner' : 'runners'}`,
        {
          guests: listening.address,
        },
      );
    },

    reconfigure(next) {
      for (const [key, spelled] of NEED_RESTART) {
        if (JSON.stringify(next[key]) !== JSON.stringify(config[key])) {
          log.warn(`gitlab.${spelled} has changed: restart the host for it to take effect`);
        }
      }
      const { url, listen, ca, timings } = config;
      config = { ...next, url, listen, ca, timings };
      if (!isClaiming) return;
      const names = new Set(config.runners.map(({ name }) => name));
      for (const claimer of claimers) if (!names.has(claimer.name)) dismiss(claimer);
      claimers = config.runners.map((runner) => {
        const known = claimers.find((claimer) => claimer.name === runner.name);
        known?.reconfigure(runner, config);
        const claimer = known ?? createClaimer(runner);
        claimer.start();
        return claimer;
      });
      warm.look();
    },

    async pause(runner, paused) {
      if (!claimers.some((claimer) => claimer.name === runner)) {
        throw new ForrestGitlabError(
          'runner_unknown',
          `no runner of the name ${runner} is configured`,
        );
      }
      await pauses.set(runner, paused);
      // A reload may have put another one in its place meanwhile.
      claimers.find((claimer) => claimer.name === runner)?.pause(paused);
      warm.look();
    },

    async drain() {
      await stopClaiming();
      await Promise.all([warm.end('the host is draining'), leases.whenEmpty()]);
    },

    async stop(machines) {
      // First: claimers that have stopped want no warm machines, which are to be there for the next start.
      warm.leave();
      await stopClaiming();
      if (machines === 'end') {
        void warm.end('the runner host was stopped');
        for (const lease of leases.all()) {
          void lease.giveUp('the runner host was stopped', 'host-stopped', 'runner_interrupted');
        }
        // What GitLab does not take now stays in the journal, for the next start.
        const empty = new AbortController();
        void leases.whenEmpty().then(() => empty.abort());
        await sleep(clock, config.timings.stopLimitMs, empty.signal);
      }
      // First of all, so that no runner hears a wrong answer from what is being put away.
      await proxy.close();
      await leases.leaveAll();
      await journal.stop();
      health.close();
      upstream.close();
    },

    status(): ProviderStatus {
      const runners = claimers.map((claimer) => claimer.row());
      return {
        health: healthOf(runners, journal.problem, health),
        jobs: leases.all().map((lease) => lease.row()),
        runners,
      };
    },
  };
}

/** What cannot change while it runs, and the keys that say so. */
const NEED_RESTART = [
  ['url', 'url'],
  ['listen', 'listen'],
  ['ca', 'ca_file'],
  ['timings', 'timings'],
] as const;

/** A host names the socket; which key its address stands under is ours to tell. */
function nameKey(error: unknown): never {
  if (error instanceof Error) error.message += ' (gitlab.listen in the configuration)';
  throw error;
}
