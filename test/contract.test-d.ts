/** What the contract promises to a host's author and to a provider's, checked by `npm run types`. */

import { createPlugin, type GitlabConfig } from 'forrest-gitlab';
import type {
  BootSpec,
  JobRow,
  Machine,
  MachineOutcome,
  Parsed,
  Provider,
  ProviderPlugin,
  Refusal,
  Reservation,
  RoomRequest,
  Secret,
  VmPool,
} from 'forrest-gitlab/contract';

type Equal<A, B> =
  (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
type Expect<T extends true> = T;

declare const secret: Secret;
declare const room: RoomRequest;
declare const machine: Machine;
declare const reservation: Reservation;

// The plugin is one, and needs no seams.
createPlugin() satisfies ProviderPlugin<GitlabConfig>;
createPlugin({ checkpoint: () => undefined, random: () => 0.5 });
// @ts-expect-error there is no such seam
createPlugin({ now: () => 0 });

// A machine is room too; a reservation is used up by one of two calls.
machine satisfies Pick<Reservation, 'machineType' | 'firm' | 'wanted' | 'onWanted' | 'makeFirm'>;
reservation.boot({ runnerName: 'r', substitutions: { A: 'a', B: secret }, metadata: { job: 1 } });
// @ts-expect-error metadata is durable: JSON only
({ runnerName: 'r', substitutions: {}, metadata: () => 1 }) satisfies BootSpec;
// @ts-expect-error a machine cannot be booted again
machine.boot({ runnerName: 'r', substitutions: {}, metadata: null });
// @ts-expect-error a secret is no string
secret satisfies string;

// How an ask ended may be said, or not.
reservation.release();
reservation.release('failed');
// @ts-expect-error there is no such end
reservation.release('job');

// Second boots say `true` or nothing at all.
({ ...room, claimed: true }) satisfies RoomRequest;
// @ts-expect-error never false
({ ...room, claimed: false }) satisfies RoomRequest;
// @ts-expect-error nothing waits without a way to give up
({ machineType: 'm', firm: true, purpose: 'p' }) satisfies RoomRequest;

// So do machines that wait for a job; a host may do without what it need not know.
({ ...room, warm: true }) satisfies RoomRequest;
// @ts-expect-error never false
({ ...room, warm: false }) satisfies RoomRequest;
machine.outdated satisfies boolean | undefined;

// What comes back is read-only, and each set of words is closed.
// @ts-expect-error
machine.state = 'running';
// @ts-expect-error Forrest has no such state
'booted' satisfies Machine['state'];

export type Checks = [
  Expect<Equal<Awaited<Machine['ended']>, MachineOutcome>>,
  Expect<Equal<ReturnType<VmPool['machines']>, readonly Machine[]>>,
  Expect<Equal<Refusal, 'unknown_machine_type' | 'never_fits' | 'draining' | 'aborted'>>,
  Expect<Equal<Parameters<Provider<1>['stop']>, [machines: 'leave' | 'end']>>,
  Expect<Equal<Parameters<Provider<{ a: 1 }>['reconfigure']>[0], { a: 1 }>>,
  Expect<Equal<Extract<Parsed<1>, { ok: true }>['config'], 1>>,
  Expect<Equal<JobRow['outcome'], 'success' | 'failed' | 'canceled' | 'system_failure' | null>>,
];
