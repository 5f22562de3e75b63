/** The states of a claimed job and the pure transitions between them (design §4). */

import type { JobOutcome } from '../contract/index.ts';
import type { FailureReason } from '../gitlab/index.ts';

/** Journaled, no machine yet. `boots`: how many machines have already been spent on it. */
export interface Claimed {
  readonly name: 'claimed';
  readonly payload: Buffer;
  readonly boots: number;
}

/** Its machine boots. `boots` counts that machine. */
export interface Booting {
  readonly name: 'booting';
  readonly payload: Buffer;
  readonly boots: number;
}

/** The machine's runner was given the job; it has not spoken for it yet. */
export interface Offered {
  readonly name: 'offered';
  readonly payload: Buffer;
  readonly boots: number;
}

/** The runner has made a call of its own for this job: something may have run. */
export interface Running {
  readonly name: 'running';
  /** The runner's final update that GitLab answered 202: to be repeated exactly, by whoever is left. */
  readonly pending: PendingFinal | null;
}

/** The final state is GitLab's, or it is ours to deliver and we hold it durably. */
export interface Finishing {
  readonly name: 'finishing';
  readonly outcome: JobOutcome;
  readonly reason: string | null;
  /** Null once GitLab has it. */
  readonly owed: Owed | null;
  readonly machineGone: boolean;
}

/** Nothing is left to do. */
export interface Ended {
  readonly name: 'ended';
  readonly outcome: JobOutcome;
  readonly reason: string | null;
}

export type LeaseState = Claimed | Booting | Offered | Running | Finishing | Ended;

/** A final update as the guest's runner sent it. */
export interface PendingFinal {
  readonly body: Buffer;
  readonly outcome: 'success' | 'failed';
}

/** What we still owe GitLab. */
export type Owed =
  /** Our own end of the job; `note` goes to its log first. */
  | { readonly kind: 'own'; readonly failureReason: FailureReason; readonly note: string }
  /** The runner's own update, repeated. */
  | { readonly kind: 'repeat'; readonly final: PendingFinal };

export type LeaseEvent =
  /** The reservation became a machine. */
  | { readonly type: 'booting' }
  /** The machine's runner asked for its job. */
  | { readonly type: 'offered' }
  /** The runner speaks for the job. */
  | { readonly type: 'own-call' }
  /** GitLab answered 200 to the runner's final update. */
  | { readonly type: 'final-taken'; readonly outcome: JobOutcome }
  /** GitLab answered 202 to it. */
  | { readonly type: 'final-pending'; readonly final: PendingFinal }
  /** GitLab is out, has the whole log, and the final update is ours to deliver. */
  | { readonly type: 'final-held'; readonly final: PendingFinal }
  /** GitLab says that the job is over. */
  | { readonly type: 'over'; readonly outcome: JobOutcome; readonly reason: string }
  /** We end it. */
  | {
      readonly type: 'give-up';
      readonly outcome: JobOutcome;
      readonly reason: string;
      readonly failureReason: FailureReason;
      readonly note: string;
    }
  /** The machine has ended; `reason` and `note` are used where that ends the job too. */
  | { readonly type: 'machine-ended'; readonly reason: string; readonly note: string }
  /** GitLab has what we owed, or told that the job is over. */
  | { readonly type: 'delivered'; readonly outcome: JobOutcome };

/** How many machines a job may cost: one, and one more where nothing has run. */
export const MAX_BOOTS = 2;

/** The state after an event, or null where the event changes nothing in this state. */
export function transition(state: LeaseState, event: LeaseEvent): LeaseState | null {
  switch (event.type) {
    case 'booting':
      return state.name === 'claimed'
        ? { name: 'booting', payload: state.payload, boots: state.boots + 1 }
        : null;
    case 'offered':
      return state.name === 'booting'
        ? { name: 'offered', payload: state.payload, boots: state.boots }
        : null;
    case 'own-call':
      // Only whoever was given the job can know its token: before that, it is no call of its runner.
      return state.name === 'offered' ? { name: 'running', pending: null } : null;
    case 'final-pending':
      return state.name === 'running' ? { name: 'running', pending: event.final } : null;
    case 'final-taken':
      return state.name === 'running' ? finishing(event.outcome, null) : null;
    case 'final-held':
      return state.name === 'running'
        ? finishing(event.final.outcome, null, { kind: 'repeat', final: event.final })
        : null;
    case 'over':
      return isLive(state)
        ? finishing(event.outcome, event.reason, null, !hasMachine(state))
        : null;
    case 'give-up':
      return isLive(state) ? giveUp(event, !hasMachine(state)) : null;
    case 'machine-ended':
      return onMachineEnded(state, event);
    case 'delivered':
      if (state.name !== 'finishing' || state.owed === null) return null;
      return settle({ ...state, outcome: event.outcome, owed: null });
    default:
      return event satisfies never;
  }
}

/** True until the job's final state is decided. */
export function isLive(state: LeaseState): state is Claimed | Booting | Offered | Running {
  return state.name !== 'finishing' && state.name !== 'ended';
}

function hasMachine(state: LeaseState): boolean {
  return state.name === 'booting' || state.name === 'offered' || state.name === 'running';
}

function onMachineEnded(
  state: LeaseState,
  event: Extract<LeaseEvent, { type: 'machine-ended' }>,
): LeaseState | null {
  switch (state.name) {
    case 'booting':
    case 'offered':
      if (state.boots < MAX_BOOTS) {
        return { name: 'claimed', payload: state.payload, boots: state.boots };
      }
      return giveUp(
        { ...event, outcome: 'system_failure', failureReason: 'runner_system_failure' },
        true,
      );
    case 'running':
      // A final update that GitLab has already remembered must not be overruled.
      return state.pending === null
        ? giveUp(
            { ...event, outcome: 'system_failure', failureReason: 'runner_system_failure' },
            true,
          )
        : finishing(state.pending.outcome, null, { kind: 'repeat', final: state.pending }, true);
    case 'finishing':
      return state.machineGone ? null : settle({ ...state, machineGone: true });
    case 'claimed':
    case 'ended':
      return null;
    default:
      return state satisfies never;
  }
}

function giveUp(
  event: Pick<
    Extract<LeaseEvent, { type: 'give-up' }>,
    'outcome' | 'reason' | 'failureReason' | 'note'
  >,
  machineGone: boolean,
): LeaseState {
  const owed: Owed = { kind: 'own', failureReason: event.failureReason, note: event.note };
  return finishing(event.outcome, event.reason, owed, machineGone);
}

function finishing(
  outcome: JobOutcome,
  reason: string | null,
  owed: Owed | null = null,
  machineGone = false,
): LeaseState {
  return settle({ name: 'finishing', outcome, reason, owed, machineGone });
}

/** Finishing is over when GitLab has the final state and the machine is gone. */
function settle(state: Finishing): LeaseState {
  return state.owed === null && state.machineGone
    ? { name: 'ended', outcome: state.outcome, reason: state.reason }
    : state;
}
