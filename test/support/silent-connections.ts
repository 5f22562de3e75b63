/** A process that opens so many connections and says nothing on them: `PORT COUNT`. */

import net from 'node:net';

const [port = 0, count = 0] = process.argv.slice(2).map(Number);

/** So that the listener's backlog does not overflow: a dropped SYN costs a second. */
const AT_ONCE = 100;

let opened = 0;
let closed = 0;
let settled = 0;

function open(): void {
  if (opened === count) return;
  opened += 1;
  const socket = net.connect({ port, host: '127.0.0.1' });
  let next: (() => void) | null = open;
  const settle = (): void => {
    next?.();
    if (next !== null) settled += 1;
    next = null;
    if (settled === count) process.send?.({ settled, closed });
  };
  socket.once('connect', settle);
  socket.on('error', () => undefined);
  socket.once('close', () => {
    closed += 1;
    settle();
  });
}

for (let at = 0; at < AT_ONCE; at += 1) open();
process.on('message', () => process.send?.({ settled, closed }));
