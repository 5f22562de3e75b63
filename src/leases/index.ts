/** A claimed job and its machine: states, heartbeat, journal, recovery. */

export { CHECKPOINTS, type Checkpoint, type CheckpointName } from './checkpoints.ts';
export { createFileJournal, type Journal } from './journal.ts';
export { JournalWriter } from './journal-writer.ts';
export type { Lease } from './lease.ts';
export { type ClaimedJob, Leases, type LeasesServices } from './leases.ts';
export type { Place, ReadyMachine } from './ready-machine.ts';
export type { LeaseRecord } from './record.ts';
export type { LeaseServices } from './services.ts';
export type { PendingFinal } from './state.ts';
export { createVmToken, isVmTokenOf, sameToken, tokenKey } from './vm-token.ts';
