/** The gaps between the steps of a job's life, each by its name. */

import type { LeaseEvent, LeaseState } from './state.ts';

/**
 * Whatever kills us, kills us in one of them. What each leaves behind, and what the next start does about
 * it, stands in docs/life-of-a-job.md.
 */
export const CHECKPOINTS = [
  'warm-requested',
  'warm-pinned',
  'claim-received',
  'entry-drafted',
  'lease-claimed',
  'machine-requested',
  'warm-bound',
  'lease-booting',
  'lease-offered',
  'lease-running',
  'final-journaled',
  'final-answered',
  'lease-finishing',
  'machine-gone',
  'machine-gone-journaled',
  'note-placed',
  'note-sent',
  'end-sent',
  'end-journaled',
  'lease-ended',
] as const;

export type CheckpointName = (typeof CHECKPOINTS)[number];

/** Stops there until it is let go on; in production at once. */
export type Checkpoint = (name: CheckpointName) => Promise<void>;

/** The gap after a state or a part of it was journaled, and before what follows from that. */
export function checkpointAfter(
  before: LeaseState,
  next: LeaseState,
  event: LeaseEvent,
): CheckpointName {
  if (next.name !== before.name) return `lease-${next.name}`;
  switch (event.type) {
    case 'final-pending':
      return 'final-journaled';
    case 'machine-ended':
      return 'machine-gone-journaled';
    case 'note-placed':
      return 'note-placed';
    case 'delivered':
      return 'end-journaled';
    default:
      return `lease-${next.name}`;
  }
}
