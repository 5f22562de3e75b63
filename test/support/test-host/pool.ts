/** Room for so many machines. */

import type { BootSpec, Machine, Reservation, RoomRequest } from 'forrest-gitlab/contract';
import { roomOf, type WorldMachine } from './machine.ts';

/** Grants in the order of the requests, those for claimed jobs first. */
export function createPool(
  rooms: number,
  machines: readonly WorldMachine[],
  boot: (spec: BootSpec) => Machine,
): {
  reserve(request: RoomRequest): Promise<Reservation>;
  look(): void;
  hold(isHeld: boolean): void;
} {
  let reserved = 0;
  let held = 0;
  const waiting: { request: RoomRequest; grant: () => void }[] = [];
  const look = (): void => {
    waiting.sort((a, b) => Number(b.request.claimed ?? 0) - Number(a.request.claimed ?? 0));
    while (waiting.length > 0 && reserved + held + machines.length < rooms)
      waiting.shift()?.grant();
  };
  const reservation = (): Reservation => {
    let isHeld = true;
    reserved += 1;
    const giveBack = (): void => {
      if (isHeld) reserved -= 1;
      isHeld = false;
    };
    return {
      ...roomOf(),
      release() {
        giveBack();
        look();
      },
      boot(spec) {
        giveBack();
        return boot(spec);
      },
    };
  };
  return {
    look,
    hold(isHeld) {
      held = isHeld ? 1 : 0;
      look();
    },
    reserve: (request) =>
      new Promise((resolve, reject) => {
        const entry = { request, grant: () => resolve(reservation()) };
        const takeBack = (): void => {
          if (waiting.includes(entry)) waiting.splice(waiting.indexOf(entry), 1);
          reject(Object.assign(new Error('taken back'), { code: 'aborted' }));
        };
        waiting.push(entry);
        if (request.signal.aborted) takeBack();
        else request.signal.addEventListener('abort', takeBack);
        look();
      }),
  };
}
