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
  /** The runner's final update: to be repeated exactly, by whoever is left, until GitLab has taken it. */
  readonly pending: PendingFinal | null;
}

/** Why a job ended otherwise than by its own runner's or a person's will; few, so that they can be counted. */
export const END_CAUSES = [
  'machine-powered-off',
  'machine-crashed',
  'machine-stopped',
  'machine-boot-failed',
  'machine-time-limit',
  'machine-unknown',
  'machine-lost',
  'no-machine',
  'never-asked',
  'never-spoke',
  'job-timeout',
  'cancel-timeout',
  'host-stopped',
  'entry-damaged',
  'payload-unreadable',
  'undelivered',
] as const;
export type EndCause = (typeof END_CAUSES)[number];

/** The final state is GitLab's, or it is ours to deliver and we hold it durably. */
export interface Finishing {
  readonly name: 'finishing';
  readonly outcome: JobOutcome;
  readonly reason: string | null;
  readonly cause: EndCause | null;
  /** Null once GitLab has it. */
  readonly owed: Owed | null;
  readonly machineGone: boolean;
}

/** Nothing is left to do. */
export interface Ended {
  readonly name: 'ended';
  readonly outcome: JobOutcome;
  readonly reason: string | null;
  readonly cause: EndCause | null;
}

export type LeaseState = Claimed | Booting | Offered | Running | Finishing | Ended;

/** A final update as the guest's runner sent it. */
export interface PendingFinal {
  readonly body: Buffer;
  readonly outcome: 'success' | 'failed';
}

/** What we still owe GitLab. */
export type Owed =
  /**
   * Our own end of the job; `note` goes to its log first, at `noteAt` once that is known: written down
   * before it is sent, so that no crash puts it there twice.
   */
  | {
      readonly kind: 'own';
      readonly failureReason: FailureReason;
      readonly note: string;
      readonly noteAt: number | null;
    }
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
  /** The runner has sent its final update; GitLab's answer is not known yet, or was 202. */
  | { readonly type: 'final-pending'; readonly final: PendingFinal }
  /** GitLab is out, has the whole log, and the final update is ours to deliver. */
  | { readonly type: 'final-held'; readonly final: PendingFinal }
  /** GitLab says that the job is over. */
  | { readonly type: 'over'; readonly outcome: JobOutcome; readonly reason: string | null }
  /** We end it. */
  | {
      readonly type: 'give-up';
      readonly outcome: JobOutcome;
      readonly reason: string;
      readonly cause: EndCause | null;
      readonly failureReason: FailureReason;
      readonly note: string;
    }
  /** The machine has ended; `reason` and `note` are used where that ends the job too. */
  | {
      readonly type: 'machine-ended';
      readonly reason: string;
      readonly cause: EndCause;
      readonly note: string;
      /** Where it was there to be asked. */
      readonly bootedAt?: number | null;
    }
  /** Where in the job's log our note is to stand. */
  | { readonly type: 'note-placed'; readonly at: number }
  /** GitLab has what we owed, or told that the job is over; or we have given up telling it. */
  | {
      readonly type: 'delivered';
      readonly outcome: JobOutcome;
      readonly reason: string | null;
      readonly cause: EndCause | null;
    };

/** How many machines a job may cost: one, and one more where nothing has run. */
const MAX_BOOTS = 2;

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
      return state.name === 'running' && !sameFinal(state.pending, event.final)
        ? { name: 'running', pending: event.final }
        : null;
    case 'final-taken':
      return state.name === 'running' ? finishing({ outcome: event.outcome }) : null;
    case 'final-held':
      return state.name === 'running'
        ? finishing({ outcome: event.final.outcome, owed: { kind: 'repeat', final: event.final } })
        : null;
    case 'over':
      return isLive(state)
        ? finishing({
            outcome: event.outcome,
            // It may be the runner's own last word that GitLab repeats.
            reason: isOwnWord(state, event.outcome) ? null : event.reason,
            machineGone: !hasMachine(state),
          })
        : null;
    case 'give-up':
      return isLive(state) ? giveUp(state, event, !hasMachine(state)) : null;
    case 'machine-ended':
      return onMachineEnded(state, event);
    case 'note-placed':
      return state.name === 'finishing' &&
        state.owed?.kind === 'own' &&
        state.owed.noteAt !== event.at
        ? { ...state, owed: { ...state.owed, noteAt: event.at } }
        : null;
    case 'delivered':
      if (state.name !== 'finishing' || state.owed === null) return null;
      return settle({
        ...state,
        outcome: event.outcome,
        reason: event.reason,
        cause: event.cause,
        owed: null,
      });
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
  const failed = {
    ...event,
    outcome: 'system_failure',
    failureReason: 'runner_system_failure',
  } as const;
  switch (state.name) {
    case 'booting':
    case 'offered':
      return state.boots < MAX_BOOTS
        ? { name: 'claimed', payload: state.payload, boots: state.boots }
        : giveUp(state, failed, true);
    case 'running':
      return giveUp(state, failed, true);
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
  state: LeaseState,
  event: Omit<Extract<LeaseEvent, { type: 'give-up' }>, 'type'>,
  machineGone: boolean,
): LeaseState {
  // The runner's own last word must not be overruled: GitLab may have remembered it already.
  if (state.name === 'running' && state.pending !== null) {
    const owed: Owed = { kind: 'repeat', final: state.pending };
    return finishing({ outcome: state.pending.outcome, owed, machineGone });
  }
  const { outcome, reason, cause, failureReason, note } = event;
  const owed: Owed = { kind: 'own', failureReason, note, noteAt: null };
  return finishing({ outcome, reason, cause, owed, machineGone });
}

function finishing(
  state: Pick<Finishing, 'outcome'> & Partial<Omit<Finishing, 'name'>>,
): LeaseState {
  return settle({
    name: 'finishing',
    reason: null,
    cause: null,
    owed: null,
    machineGone: false,
    ...state,
  });
}

/** Finishing is over when GitLab has the final state and the machine is gone. */
function settle(state: Finishing): LeaseState {
  return state.owed === null && state.machineGone
    ? { name: 'ended', outcome: state.outcome, reason: state.reason, cause: state.cause }
    : state;
}

function sameFinal(one: PendingFinal | null, other: PendingFinal): boolean {
  return one !== null && one.outcome === other.outcome && one.body.equals(other.body);
}

function isOwnWord(state: LeaseState, outcome: JobOutcome): boolean {
  return state.name === 'running' && state.pending?.outcome === outcome;
}
