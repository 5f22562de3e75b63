/** A job of which only id and token are left: it is ended in GitLab, and its owner is told why. */

import type { JsonValue, Machine } from '../contract/index.ts';
import type { BareJob, JobFacts } from '../gitlab/index.ts';
import { composeNote } from './note.ts';
import type { LeaseRecord, Moment, Salvaged } from './record.ts';

const REASON = 'the runner host was restarted, and its record of this job is damaged';

/** The facts of a job of which no more is known. */
export function bareFacts({ id, token }: BareJob): JobFacts {
  return {
    id,
    token,
    name: `job ${id}`,
    project: '',
    ref: '',
    url: null,
    timeoutSeconds: 0,
    dependencies: [],
    failureReasons: [],
    protected: false,
    repoUrl: null,
  };
}

/** `machine`: the one that was booted for it, where it still exists. */
export function salvagedRecord(
  job: Salvaged,
  machine: Machine | undefined,
  now: Moment,
): LeaseRecord {
  const runnerName = machine?.runnerName ?? '';
  return {
    facts: bareFacts(job),
    runner: readMetadata(machine, 'runner', ''),
    runnerName,
    vmToken: '',
    requestId: null,
    stages: [],
    state: {
      name: 'finishing',
      outcome: 'system_failure',
      reason: REASON,
      cause: 'entry-damaged',
      owed: {
        kind: 'own',
        failureReason: 'runner_system_failure',
        note: composeNote({
          reason: REASON,
          runnerName,
          console: null,
          secrets: null,
          now: now.at,
        }),
        noteAt: null,
      },
      machineGone: machine === undefined,
    },
    entered: now,
  };
}

/** The machine that was booted for a job, by what it was booted with. */
export function machineOf(jobId: number, machines: readonly Machine[]): Machine | undefined {
  return machines.find((machine) => readMetadata(machine, 'job', 0) === jobId);
}

function readMetadata<T extends string | number>(
  machine: Machine | undefined,
  key: string,
  otherwise: T,
): T {
  const metadata: JsonValue | undefined = machine?.metadata;
  const value: unknown =
    typeof metadata === 'object' && metadata !== null ? Reflect.get(metadata, key) : undefined;
  return typeof value === typeof otherwise ? (value as T) : otherwise;
}
