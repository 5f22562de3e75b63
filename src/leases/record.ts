/** A lease as its journal entry: JSON with a version, checked when it is read back. */

import * as v from 'valibot';
import type { JobStage } from '../contract/index.ts';
import type { JobFacts } from '../gitlab/index.ts';
import { END_CAUSES, type LeaseState } from './state.ts';

/** Everything of a lease that must survive us. Never the runner's own token. */
export interface LeaseRecord {
  readonly facts: JobFacts;
  /** Name of the configured runner that claimed it. */
  readonly runner: string;
  /** Identity of its present machine. */
  readonly runnerName: string;
  /** What opens the proxy's route for that machine. */
  readonly vmToken: string;
  /** GitLab's id of the claim, for its logs. */
  readonly requestId: string | null;
  readonly stages: readonly JobStage[];
  readonly state: LeaseState;
  /** When that state was entered; infinite where an earlier version did not write it down. */
  readonly entered: Moment;
}

/** `monotonic` counts from the boot of this host: only after a reboot, when no machine is left, it means nothing. */
export interface Moment {
  /** Wall clock, ms. */
  readonly at: number;
  readonly monotonic: number;
}

/** All that is needed to end a job in GitLab. */
export interface Salvaged {
  readonly id: number;
  readonly token: string;
}

const VERSION = 1;

const Base64 = v.pipe(
  v.string(),
  v.transform((text) => Buffer.from(text, 'base64')),
);
const Outcome = v.picklist(['success', 'failed', 'canceled', 'system_failure']);
const Reason = v.nullable(v.string());
const Cause = v.fallback(v.nullable(v.picklist(END_CAUSES)), null);
const Final = v.object({ body: Base64, outcome: v.picklist(['success', 'failed']) });
const Unstarted = { payload: Base64, boots: v.number() };

const State = v.variant('name', [
  v.object({ name: v.literal('claimed'), ...Unstarted }),
  v.object({ name: v.literal('booting'), ...Unstarted }),
  v.object({ name: v.literal('offered'), ...Unstarted }),
  v.object({ name: v.literal('running'), pending: v.nullable(Final) }),
  v.object({
    name: v.literal('finishing'),
    outcome: Outcome,
    reason: Reason,
    cause: Cause,
    owed: v.nullable(
      v.variant('kind', [
        v.object({
          kind: v.literal('own'),
          failureReason: v.picklist([
            'runner_system_failure',
            'job_execution_timeout',
            'runner_interrupted',
            'unknown_failure',
          ]),
          note: v.string(),
          noteAt: v.optional(v.nullable(v.number()), null),
        }),
        v.object({ kind: v.literal('repeat'), final: Final }),
      ]),
    ),
    machineGone: v.boolean(),
  }),
  v.object({ name: v.literal('ended'), outcome: Outcome, reason: Reason, cause: Cause }),
]);

const Entry: v.GenericSchema<unknown, LeaseRecord & { version: 1 }> = v.object({
  version: v.literal(VERSION),
  facts: v.object({
    id: v.number(),
    token: v.string(),
    name: v.string(),
    project: v.string(),
    ref: v.string(),
    url: v.nullable(v.string()),
    timeoutSeconds: v.number(),
    dependencies: v.array(v.object({ id: v.number(), token: v.string() })),
    failureReasons: v.array(v.string()),
    protected: v.boolean(),
    repoUrl: v.nullable(v.string()),
  }),
  runner: v.string(),
  runnerName: v.string(),
  vmToken: v.string(),
  requestId: v.nullable(v.string()),
  stages: v.array(v.object({ name: v.string(), at: v.number() })),
  state: State,
  entered: v.optional(v.object({ at: v.number(), monotonic: v.number() }), () => ({
    at: Number.POSITIVE_INFINITY,
    monotonic: Number.POSITIVE_INFINITY,
  })),
});

/** The entry's text: id and token stand first, so that the beginning of it is enough to end the job. */
export function serializeRecord({ facts, ...record }: LeaseRecord): string {
  const { id, token, ...rest } = facts;
  return JSON.stringify(
    { version: VERSION, facts: { id, token, ...rest }, ...record },
    (_key, value: unknown) =>
      // JSON.stringify has already asked the buffer for its own JSON form.
      isBufferJson(value) ? Buffer.from(value.data).toString('base64') : value,
  );
}

export interface Unreadable {
  readonly problem: string;
  /** Written by a later version: sound, and not ours to judge. */
  readonly isNewer: boolean;
}

/** The record in an entry's text, or what is wrong with it, without any of its content. */
export function parseRecord(text: string): LeaseRecord | Unreadable {
  const version = Number(/^\{"version":(\d{1,9})\b/.exec(text)?.[1] ?? VERSION);
  if (version > VERSION) {
    return {
      problem: `it is of version ${version}, and this forrest-gitlab knows ${VERSION}; start the newer one again to end its job`,
      isNewer: true,
    };
  }
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return { problem: 'not JSON', isNewer: false };
  }
  const parsed = v.safeParse(Entry, json);
  if (parsed.success) {
    const { version: _, ...record } = parsed.output;
    return record;
  }
  const paths = parsed.issues.map((issue) => v.getDotPath(issue) ?? 'the whole');
  return { problem: `no usable ${paths.join(', ')}`, isNewer: false };
}

/** The job's token out of whatever is left of its entry, where it stands beside that very id. */
export function salvage(text: string, id: number): Salvaged | null {
  const found = new RegExp(`"id":\\s*${id},\\s*"token":\\s*"([^"\\\\]+)"`).exec(text);
  return found?.[1] === undefined ? null : { id, token: found[1] };
}

function isBufferJson(value: unknown): value is { type: 'Buffer'; data: number[] } {
  return (
    typeof value === 'object' &&
    value !== null &&
    Reflect.get(value, 'type') === 'Buffer' &&
    Array.isArray(Reflect.get(value, 'data'))
  );
}
