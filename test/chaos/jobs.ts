/** The jobs: what each runs, what its log must then have, and how it must end where nothing disturbs it. */

import type { JobSpec } from '../../fixtures/gitlab/index.ts';
import type { PlannedJob } from './schedule.ts';

export const PROJECT = 'lab/chaos';

/** Each line of a script's output begins so, and no other line of a log does. */
export const MARK = 'CHAOS ';

/** Told to the witness, which answers: whoever ran twice was seen twice, wherever it ran. */
const WORK = `#!/bin/bash
# work.sh SEED LINES BURST PAUSE INPUT EXIT
set -eu
tell() {
  exec 3<>"/dev/tcp/$CHAOS_WITNESS"
  echo "$CI_JOB_ID $1" >&3
  read -r _ <&3
  exec 3>&-
}
tell began
if [ "$5" = make ]; then
  head -c 3000000 /dev/urandom > data.bin
  sha256sum data.bin > sums
elif [ "$5" = check ]; then
  sha256sum -c sums > /dev/null
fi
for ((n = 1; n <= $2; n++)); do
  echo "${MARK}$1 $n $((($1 * 31 + n * 7919) % 1000003))"
  if ((n % $3 == 0)); then sleep "$4"; fi
done
tell "ended $6"
exit "$6"
`;

export const PROJECT_FILES: Readonly<Record<string, string>> = { 'work.sh': WORK };

/** What a script prints, to the byte. */
export function outputOf(seed: number, lines: number): string {
  let text = '';
  for (let n = 1; n <= lines; n++) {
    text += `${MARK}${seed} ${n} ${(seed * 31 + n * 7919) % 1_000_003}\n`;
  }
  return text;
}

export interface Expected {
  readonly state: 'success' | 'failed';
  readonly output: string;
  /** Whether it sends or fetches files: its runner gives up early where nobody listens. */
  readonly transfers: boolean;
}

export interface JobPlan {
  readonly spec: JobSpec;
  readonly expected: Expected;
}

/** One job, or two stages where the second downloads what the first has uploaded. */
export function plansOf(planned: PlannedJob, number: number, witness: string): JobPlan[] {
  const { kind, seed, lines } = planned;
  const plan = (
    name: string,
    how: { burst: number; pause: number; input?: 'make' | 'check'; exit?: number },
    more: Partial<JobSpec> = {},
  ): JobPlan => {
    const { burst, pause, input = 'none', exit = 0 } = how;
    return {
      spec: {
        project: PROJECT,
        name: `${name}-${number}`,
        script: [`bash work.sh ${seed} ${lines} ${burst} ${pause} ${input} ${exit}`],
        variables: [{ key: 'CHAOS_WITNESS', value: witness }],
        ...more,
      },
      expected: {
        state: exit === 0 ? 'success' : 'failed',
        output: outputOf(seed, lines),
        transfers: input !== 'none',
      },
    };
  };
  switch (kind) {
    case 'short':
      return [plan(kind, { burst: lines, pause: 0 })];
    case 'long':
      return [plan(kind, { burst: 1, pause: 0.2 })];
    case 'noisy':
      return [plan(kind, { burst: 1000, pause: 0.2 })];
    case 'fails':
      return [plan(kind, { burst: lines, pause: 0, exit: 3 })];
    case 'pipeline':
      return [
        plan(
          'upload',
          { burst: 5, pause: 0.2, input: 'make' },
          { artifacts: [{ name: 'data', paths: ['data.bin', 'sums'] }] },
        ),
        plan(
          'download',
          { burst: 5, pause: 0.2, input: 'check' },
          { dependencies: [`upload-${number}`] },
        ),
      ];
    default:
      return kind satisfies never;
  }
}
