/** How a machine that does nothing by itself ends. */

import type { MachineOutcome } from 'forrest-gitlab/contract';

/** As one that powers off when its job is done, but for what is said otherwise. */
export function outcomeOf(differences: Partial<MachineOutcome> = {}): MachineOutcome {
  return {
    cause: 'powered-off',
    detail: 'it powered off',
    exitCode: 0,
    consoleTail: Buffer.alloc(0),
    persisted: false,
    ...differences,
  };
}
