/** From the section as it stands in the file to the configuration, or all of its problems. */

import { createHash, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import * as v from 'valibot';
import type { ConfigContext, Parsed, Problem, Secret } from '../contract/index.ts';
import { describeError } from '../lib/errors.ts';
import { secret } from '../lib/secret.ts';
import type { Executor, GitlabConfig, RunnerConfig } from './config.ts';
import {
  type RawRunner,
  type RawSection,
  RUNNER_KEYS,
  SECTION_KEYS,
  Section,
  TIMING_KEYS,
} from './schema.ts';
import { DEFAULT_TIMINGS, type Timings } from './timings.ts';
import { mistakenToken, readTokenFile } from './token-file.ts';

const ROOT = 'gitlab';

/** Never throws for bad input. Reads the files that the section names; relative paths resolve against the configuration's. */
export async function parseConfig(
  section: unknown,
  context: ConfigContext,
): Promise<Parsed<GitlabConfig>> {
  const problems: Problem[] = [...unknownKeys(section)];
  const shape = v.safeParse(Section, section);
  for (const issue of shape.issues ?? []) problems.push(toProblem(issue));
  if (!shape.success) {
    // Files and references are still worth checking where their own fields are sound.
    problems.push(...(await checkSoundRunners(section, context)));
    return { ok: false, problems };
  }
  const raw = shape.output;
  const runners = await readRunners(raw.runners, context, problems);
  const ca = await readCa(raw, context, problems);
  const webhookSecret = await readWebhookSecret(raw, context, problems);
  if (problems.length > 0) return { ok: false, problems };
  return {
    ok: true,
    config: Object.freeze({
      url: new URL(raw.url).href.replace(/\/+$/, ''),
      listen: raw.listen,
      ca,
      cloneUrl: raw.clone_url ?? null,
      webhookSecret,
      checkIntervalMs: raw.check_interval,
      consoleTail: raw.console_tail,
      runners: Object.freeze(runners),
      timings: Object.freeze({ ...DEFAULT_TIMINGS, ...raw.timings }) as Timings,
    }),
  };
}

function unknownKeys(section: unknown): Problem[] {
  if (!isMapping(section)) return [];
  const found = unknownIn(section, SECTION_KEYS, ROOT);
  if (isMapping(section['timings'])) {
    found.push(...unknownIn(section['timings'], TIMING_KEYS, `${ROOT}.timings`));
  }
  const runners: unknown = section['runners'];
  for (const [index, runner] of (Array.isArray(runners) ? runners : []).entries()) {
    if (isMapping(runner)) found.push(...unknownIn(runner, RUNNER_KEYS, runnerPath(index)));
  }
  return found;
}

function unknownIn(mapping: Mapping, known: readonly string[], at: string): Problem[] {
  return Object.keys(mapping)
    .filter((key) => !known.includes(key))
    .map((key) => ({
      path: `${at}.${key}`,
      message: `unknown key; allowed are ${known.join(', ')}`,
    }));
}

/** Only path and our own message: valibot's texts and issues hold what was received. */
function toProblem(issue: v.BaseIssue<unknown>): Problem {
  const steps = (issue.path ?? []).map((step) =>
    typeof step.key === 'number' ? `[${step.key}]` : `.${String(step.key)}`,
  );
  const missing = issue.received === 'undefined' && issue.path !== undefined;
  return {
    path: ROOT + steps.join(''),
    message: missing ? 'is missing' : issue.message,
  };
}

async function checkSoundRunners(section: unknown, context: ConfigContext): Promise<Problem[]> {
  const problems: Problem[] = [];
  const runners: unknown = isMapping(section) ? section['runners'] : undefined;
  for (const [index, runner] of (Array.isArray(runners) ? runners : []).entries()) {
    if (!isMapping(runner)) continue;
    const { machine, token_file: tokenFile } = runner;
    if (typeof machine === 'string') checkMachine(machine, index, context, problems);
    if (typeof tokenFile === 'string' && tokenFile !== '') {
      await checkToken(resolve(tokenFile, context), index, problems);
    }
  }
  return problems;
}

async function readRunners(
  raw: readonly RawRunner[],
  context: ConfigContext,
  problems: Problem[],
): Promise<RunnerConfig[]> {
  const names = new Map<string, number>();
  const tokens = new Map<string, number>();
  const runners: RunnerConfig[] = [];
  for (const [index, runner] of raw.entries()) {
    const at = runnerPath(index);
    const namesake = names.get(runner.name);
    if (namesake !== undefined) {
      problems.push({ path: `${at}.name`, message: `already the name of runners[${namesake}]` });
    }
    names.set(runner.name, index);
    const tokenFile = resolve(runner.token_file, context);
    const digest = await checkToken(tokenFile, index, problems);
    const twin = digest === undefined ? undefined : tokens.get(digest);
    if (twin !== undefined) {
      problems.push({
        path: `${at}.token_file`,
        message: `holds the same token as runners[${twin}]: give each runner a token of its own`,
      });
    }
    if (digest !== undefined) tokens.set(digest, index);
    const machineType = checkMachine(runner.machine, index, context, problems);
    const executor = readExecutor(runner, at, problems);
    if (runner.warm > runner.limit) {
      problems.push({
        path: `${at}.warm`,
        message: `${runner.warm} is more than limit, ${runner.limit}: a runner has never more machines than that`,
      });
    }
    if (machineType === undefined || executor === undefined) continue;
    runners.push(
      Object.freeze({
        name: runner.name,
        tokenFile,
        machineType,
        executor,
        limit: runner.limit,
        warm: runner.warm,
        outputLimitKib: runner.output_limit,
        persist: runner.persist,
      }),
    );
  }
  return runners;
}

function readExecutor(runner: RawRunner, at: string, problems: Problem[]): Executor | undefined {
  if (runner.executor === 'docker') {
    if (runner.docker_image === undefined) {
      problems.push({
        path: `${at}.docker_image`,
        message: 'is missing: the docker executor needs an image for jobs that name none',
      });
      return undefined;
    }
    return {
      name: 'docker',
      image: runner.docker_image,
      helperImage: runner.docker_helper_image ?? '',
      privileged: runner.docker_privileged ?? false,
      pullPolicies: runner.docker_pull_policy ?? ['always'],
      registryMirror: runner.docker_registry_mirror ?? '',
    };
  }
  for (const key of Object.keys(runner).filter((name) => name.startsWith('docker_'))) {
    problems.push({ path: `${at}.${key}`, message: 'is only for executor: docker' });
  }
  return { name: 'shell' };
}

/** A digest of the token, to compare without keeping it. */
async function checkToken(
  file: string,
  index: number,
  problems: Problem[],
): Promise<string | undefined> {
  if (looksLikeToken(file)) {
    problems.push({
      path: `${runnerPath(index)}.token_file`,
      message: 'looks like a token itself: write the token into a file, and its path here',
    });
    return undefined;
  }
  const read = await readTokenFile(file);
  const reason = read.ok ? mistakenToken(read.token) : read.reason;
  if (read.ok && reason === null) return createHash('sha256').update(read.token).digest('hex');
  problems.push({
    path: `${runnerPath(index)}.token_file`,
    message: `${file} ${reason}`,
  });
  return undefined;
}

/** A token pasted here must not be repeated in a message about a missing file. */
function looksLikeToken(file: string): boolean {
  return /(^|-)gl[a-z]{2,6}-|^GR1348941/.test(path.basename(file)) && path.extname(file) === '';
}

function checkMachine(
  name: string,
  index: number,
  context: ConfigContext,
  problems: Problem[],
): ReturnType<ConfigContext['machineType']> {
  const machineType = context.machineType(name);
  if (machineType === undefined) {
    problems.push({
      path: `${runnerPath(index)}.machine`,
      message: `no machine type of the name '${name}' stands under machines`,
    });
  }
  return machineType;
}

async function readCa(
  raw: RawSection,
  context: ConfigContext,
  problems: Problem[],
): Promise<string | null> {
  if (raw.ca_file === undefined) return null;
  const file = resolve(raw.ca_file, context);
  try {
    const pem = await readFile(file, 'utf8');
    new X509Certificate(pem);
    return pem;
  } catch (error) {
    problems.push({
      path: `${ROOT}.ca_file`,
      message: `${file} cannot be used as CA certificates in PEM: ${describeError(error)}`,
    });
    return null;
  }
}

async function readWebhookSecret(
  raw: RawSection,
  context: ConfigContext,
  problems: Problem[],
): Promise<Secret | null> {
  if (raw.webhook_secret_file === undefined) return null;
  const file = resolve(raw.webhook_secret_file, context);
  const read = await readTokenFile(file);
  if (read.ok) return secret(read.token);
  problems.push({ path: `${ROOT}.webhook_secret_file`, message: `${file} ${read.reason}` });
  return null;
}

type Mapping = Record<string, unknown>;

function isMapping(value: unknown): value is Mapping {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function runnerPath(index: number): string {
  return `${ROOT}.runners[${index}]`;
}

function resolve(file: string, context: ConfigContext): string {
  return path.resolve(path.dirname(context.file), file);
}
