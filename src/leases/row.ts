/** What a host shows of a job. */

import type { JobRow } from '../contract/index.ts';
import type { LeaseRecord } from './record.ts';
import { orderStages } from './stages.ts';

/** What is not in its record. */
export interface Live extends Pick<JobRow, 'logBytes' | 'lastActivityAt'> {
  /** Of its present machine. */
  readonly bootedAt: number | null;
}

export function toRow({ facts, state, ...record }: LeaseRecord, live: Live): JobRow {
  const done = state.name === 'finishing' || state.name === 'ended' ? state : null;
  return {
    forge: 'gitlab',
    id: String(facts.id),
    project: facts.project,
    name: facts.name,
    ref: facts.ref,
    url: facts.url,
    runner: record.runner,
    machine: record.runnerName,
    state: state.name,
    stages: orderStages(record.stages, live.bootedAt),
    logBytes: live.logBytes,
    lastActivityAt: live.lastActivityAt,
    outcome: done?.outcome ?? null,
    reason: done?.reason ?? null,
  };
}
