/** The moments of a job's life that people are shown. */

import type { JobStage } from '../contract/index.ts';
import { isLive, type LeaseEvent, type LeaseState } from './state.ts';

/** The stages that one step adds. */
export function stagesOf(
  before: LeaseState,
  next: LeaseState,
  event: LeaseEvent,
  at: number,
): JobStage[] {
  const added: JobStage[] = [];
  const add = (name: string): void => void added.push({ name, at });
  if (event.type === 'machine-ended' && typeof event.bootedAt === 'number') {
    added.push({ name: 'booted', at: event.bootedAt });
  }
  if (next.name !== before.name && (next.name === 'offered' || next.name === 'running'))
    add(next.name);
  const hadFinal = !isLive(before) && !(before.name === 'finishing' && before.owed !== null);
  const hasFinal = next.name === 'ended' || (next.name === 'finishing' && next.owed === null);
  if (hasFinal && !hadFinal) add('finished');
  if (event.type === 'machine-ended') add('machine-gone');
  return added;
}

/** In order; `booted` is known to the machine alone until it has ended. */
export function orderStages(stages: readonly JobStage[], bootedAt: number | null): JobStage[] {
  const known = stages.some((stage) => stage.name === 'booted' && stage.at === bootedAt);
  const all = bootedAt === null || known ? stages : [...stages, { name: 'booted', at: bootedAt }];
  const claimedAt = stages.find((stage) => stage.name === 'claimed')?.at ?? 0;
  // To its job, a machine that was warm had booted by the claim.
  return all
    .map((stage) =>
      stage.name === 'booted' && stage.at < claimedAt ? { ...stage, at: claimedAt } : stage,
    )
    .toSorted((a, b) => a.at - b.at);
}
