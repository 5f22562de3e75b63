/** Delivering what we owe GitLab: the note into the log, then the final update, until it is taken. */

import type { Timings } from '../config/index.ts';
import type { Logger } from '../contract/index.ts';
import type {
  GitlabClient,
  JobFacts,
  JobStatus,
  TraceOutcome,
  UpdateOutcome,
} from '../gitlab/index.ts';
import { type Clock, sleep } from '../lib/clock.ts';
import type { Owed } from './state.ts';

export interface DeliveryServices {
  readonly clock: Clock;
  readonly gitlab: Pick<GitlabClient, 'updateJob' | 'repeatUpdate' | 'appendTrace'>;
  readonly timings: Timings;
  readonly log: Logger;
  /** Ends the tries; the debt stays in the journal. */
  readonly signal: AbortSignal;
}

/** `taken`: GitLab has it. `over`: the job had ended there before. `stopped`: by the signal. */
export type Delivered =
  | { readonly kind: 'taken' | 'over'; readonly jobStatus: JobStatus | undefined }
  | { readonly kind: 'stopped' };

/** Resolves once GitLab has it or says that the job is over. */
export async function deliver(
  facts: JobFacts,
  owed: Owed,
  logBytes: number,
  services: DeliveryServices,
): Promise<Delivered> {
  const backoff = createBackoff(services);
  if (owed.kind === 'own') {
    const noted = await appendNote(facts, Buffer.from(owed.note), logBytes, services, backoff);
    if (noted === 'stopped') return { kind: 'stopped' };
    if (noted !== 'appended') return { kind: 'over', jobStatus: noted.jobStatus };
  }
  while (!services.signal.aborted) {
    const answer = await sendFinal(facts, owed, services.gitlab);
    switch (answer.kind) {
      case 'done':
        return { kind: 'taken', jobStatus: answer.jobStatus };
      case 'over':
        return { kind: 'over', jobStatus: answer.jobStatus };
      case 'pending':
        await sleep(services.clock, answer.intervalMs, services.signal);
        break;
      case 'retry':
        services.log.warn(`the final state of job ${facts.id} was not taken: ${answer.reason}`);
        await backoff(answer.retryAfterMs);
        break;
      default:
        answer satisfies never;
    }
  }
  return { kind: 'stopped' };
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
  note: Buffer,
  logBytes: number,
  services: DeliveryServices,
  backoff: Backoff,
): Promise<'appended' | 'stopped' | Over> {
  let offset = logBytes;
  let isUncertain = false;
  while (!services.signal.aborted) {
    const answer = await services.gitlab.appendTrace(facts.id, facts.token, offset, note);
    switch (answer.kind) {
      case 'accepted':
        return 'appended';
      case 'over':
        return answer;
      case 'wrong-offset':
        // Only we write now: it is there, and the answer that said so was lost.
        if (isUncertain && answer.size === offset + note.length) return 'appended';
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
  return 'stopped';
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
