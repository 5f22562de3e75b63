/** Several calls over one connection, one after the other, as runners make them. */

import net from 'node:net';
import type { Chance } from './random.ts';

/** All that came back, cut into answers. */
export interface Conversation {
  readonly statuses: readonly number[];
  /** What came and is no answer; the beginning of one that was cut off is none either. */
  readonly rest: string;
  /** Each call was answered before the connection ended. */
  readonly isWhole: boolean;
}

/** Each call is sent once the one before it is answered, in pieces as chance has it; a slower answer is not waited for. Never rejects. */
export function converse(
  port: number,
  calls: readonly Buffer[],
  chance: Chance,
  patienceMs: number,
): Promise<Conversation> {
  const { promise, resolve } = Promise.withResolvers<Conversation>();
  const socket = net.connect({ port, host: '127.0.0.1', noDelay: true });
  const statuses: number[] = [];
  let sent = 0;
  let rest = '';
  const patience = setTimeout(() => socket.destroy(), patienceMs);
  const next = (): void => {
    patience.refresh();
    const call = calls[sent];
    sent += 1;
    if (call === undefined) socket.end();
    else sendFrom(call, 0);
  };
  const sendFrom = (call: Buffer, at: number): void => {
    if (socket.destroyed || at >= call.length) return;
    const size = chance.is(0.5) ? call.length : 1 + chance.below(200);
    socket.write(call.subarray(at, at + size));
    setImmediate(() => sendFrom(call, at + size));
  };
  socket.on('data', (data: Buffer) => {
    rest += data.toString('latin1');
    for (let size = sizeOf(rest); size > 0; size = sizeOf(rest)) {
      const status = Number(rest.slice(9, 12));
      rest = rest.slice(size);
      if (status === 100) continue;
      statuses.push(status);
      if (statuses.length === sent) next();
    }
  });
  socket.on('error', () => undefined);
  socket.once('close', () => {
    clearTimeout(patience);
    resolve({ statuses, rest, isWhole: statuses.length === calls.length && rest === '' });
  });
  socket.once('connect', next);
  return promise;
}

const ANSWER = /^HTTP\/1\.1 \d{3} [^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n/;

/** Of the answer that stands first, its body included; 0 where it is not whole. */
function sizeOf(text: string): number {
  const head = ANSWER.exec(text)?.[0];
  if (head === undefined) return 0;
  if (/\r\ntransfer-encoding: chunked\r\n/i.test(head)) {
    const end = text.indexOf('0\r\n\r\n', head.length);
    return end < 0 ? 0 : end + 5;
  }
  const size = head.length + Number(/\r\ncontent-length: (\d+)\r\n/i.exec(head)?.[1] ?? 0);
  return text.length < size ? 0 : size;
}
