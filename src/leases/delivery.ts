/** Delivering what we owe GitLab: the note into the log, then the final update, until it is taken. */

import type { Timings } from '../config/index.ts';
import type { Logger } from '../contract/index.ts';
import type { GitlabClient, JobFacts, TraceOutcome, UpdateOutcome } from '../gitlab/index.ts';
import { type Clock, sleep } from '../lib/clock.ts';
import type { Checkpoint } from './checkpoints.ts';
import { type End, endOf, type Told } from './endings.ts';
import type { Owed } from './state.ts';

export interface DeliveryServices {
  readonly clock: Clock;
  readonly gitlab: Pick<GitlabClient, 'updateJob' | 'repeatUpdate' | 'appendTrace'>;
  readonly timings: Timings;
  readonly log: Logger;
  /** Ends the tries; the debt stays in the journal. */
  readonly signal: AbortSignal;
  checkpoint: Checkpoint;
  /** Writes down where the note is to stand, before it is sent there. */
  placeNote(at: number): Promise<void>;
  /** Keeps for people what GitLab could not be told. */
  setAside(): Promise<void>;
}

/** What is owed, and since when. */
export interface Debt {
  /** As we want it to be. */
  readonly end: End;
  readonly owed: Owed;
  /** Wall clock, ms. */
  readonly since: number;
  /** Bytes of log that GitLab is known to hold. */
  readonly logBytes: number;
}

/** `stopped`: by the signal. `abandoned`: not within the time that is given to it. */
type Delivered = Told | { readonly kind: 'stopped' } | { readonly kind: 'abandoned' };

/** However long ago it was by the wall clock, which may have jumped: each start tries for this part of the limit. */
const LEAST_PART = 1 / 24;

/**
 * Resolves once GitLab has it or says that the job is over, or nobody can hope for that any more: with how the
 * job ended. Null: the tries were ended before.
 */
export async function deliver(
  facts: JobFacts,
  debt: Debt,
  services: DeliveryServices,
): Promise<End | null> {
  const delivered = await tryToDeliver(facts, debt, services);
  if (delivered.kind === 'stopped') return null;
  if (delivered.kind !== 'abandoned') return endOf(delivered, debt.end);
  services.log.error(
    `GitLab was not told how job ${facts.id} ended, and is not told any more; its journal entry was set aside as .undelivered`,
  );
  await services.setAside();
  return { outcome: debt.end.outcome, reason: debt.end.reason, cause: 'undelivered' };
}

async function tryToDeliver(
  facts: JobFacts,
  { owed, since, logBytes }: Debt,
  services: DeliveryServices,
): Promise<Delivered> {
  const { clock, timings, signal } = services;
  const limitMs = timings.deliveryLimitMs;
  const leftMs = Math.max(limitMs * LEAST_PART, limitMs - (clock.now() - since));
  const until = clock.monotonic() + Math.min(limitMs, leftMs);
  const isOpen = (): boolean => !signal.aborted && clock.monotonic() < until;
  const backoff = createBackoff(services);
  if (owed.kind === 'own') {
    const noted = await appendNote(facts, owed, logBytes, services, backoff, isOpen);
    if (noted !== 'appended' && noted !== 'not-appended') {
      return { kind: 'over', jobStatus: noted.jobStatus };
    }
  }
  while (isOpen()) {
    const answer = await sendFinal(facts, owed, services.gitlab);
    if (answer.kind === 'done' || answer.kind === 'over') await services.checkpoint('end-sent');
    switch (answer.kind) {
      case 'done':
        return { kind: 'taken', jobStatus: answer.jobStatus };
      case 'over':
        return { kind: 'over', jobStatus: answer.jobStatus };
      case 'pending':
        await sleep(clock, Math.min(answer.intervalMs, timings.deliveryBackoffCapMs), signal);
        break;
      case 'retry':
        services.log.warn(`the final state of job ${facts.id} was not taken: ${answer.reason}`);
        await backoff(answer.retryAfterMs);
        break;
      default:
        answer satisfies never;
    }
  }
  return { kind: signal.aborted ? 'stopped' : 'abandoned' };
}

function sendFinal(
  facts: JobFacts,
  owed: Owed,
  gitlab: DeliveryServices['gitlab'],
): Promise<UpdateOutcome> {
  return owed.kind === 'repeat'
    ? gitlab.repeatUpdate(facts.id, owed.final.body)
    : gitlab.updateJob(facts.id, facts.token, {
        state: 'failed',
        failure_reason: owed.failureReason,
      });
}

type Over = Extract<TraceOutcome, { kind: 'over' }>;

async function appendNote(
  facts: JobFacts,
  { note, noteAt }: Extract<Owed, { kind: 'own' }>,
  logBytes: number,
  services: DeliveryServices,
  backoff: Backoff,
  isOpen: () => boolean,
): Promise<'appended' | 'not-appended' | Over> {
  const bytes = Buffer.from(note);
  let offset = noteAt ?? logBytes;
  // Sent once already, by us or by an earlier run, and nobody knows whether it arrived.
  let isUncertain = noteAt !== null;
  while (isOpen()) {
    await services.placeNote(offset);
    const answer = await services.gitlab.appendTrace(facts.id, facts.token, offset, bytes);
    switch (answer.kind) {
      case 'accepted':
        await services.checkpoint('note-sent');
        return 'appended';
      case 'over':
        return answer;
      case 'wrong-offset':
        // Only we write now: it is there, and the answer that said so was lost.
        if (isUncertain && answer.size === offset + bytes.length) return 'appended';
        isUncertain = false;
        // A repeated 416 for the size that GitLab itself named would loop at full speed.
        if (answer.size === offset) await backoff(undefined);
        offset = answer.size;
        break;
      case 'retry':
        services.log.warn(`the log of job ${facts.id} was not taken: ${answer.reason}`);
        isUncertain = true;
        await backoff(answer.retryAfterMs);
        break;
      default:
        answer satisfies never;
    }
  }
  return 'not-appended';
}

type Backoff = (retryAfterMs: number | undefined) => Promise<void>;

function createBackoff({ clock, timings, signal }: DeliveryServices): Backoff {
  let delayMs = timings.deliveryBackoffMs;
  return async (retryAfterMs) => {
    const wanted = Math.max(delayMs, retryAfterMs ?? 0);
    delayMs = Math.min(delayMs * 2, timings.deliveryBackoffCapMs);
    await sleep(clock, Math.min(wanted, timings.deliveryBackoffCapMs), signal);
  };
}
