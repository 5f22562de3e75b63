/** HTTP as bytes, for what no client would send. */

import { once } from 'node:events';
import net, { type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import { within } from './deadline.ts';

export interface RawAnswer {
  /** Everything that came until the connection ended, as latin1. */
  readonly text: string;
  /** Of the first answer but `100 Continue`; null where there was none. */
  readonly status: number | null;
  /** Of all answers, in order. */
  readonly statuses: readonly number[];
}

/** A request's head; lines end as HTTP wants it. */
export function head(requestLine: string, ...headers: readonly string[]): string {
  return `${[requestLine, 'Host: x', ...headers].join('\r\n')}\r\n\r\n`;
}

export async function connect(t: Pick<TestContext, 'after'>, port: number): Promise<Socket> {
  const socket = net.connect({ port, host: '127.0.0.1', noDelay: true });
  t.after(() => socket.destroy());
  await once(socket, 'connect');
  // A reset is one of the ways in which the other side may end it.
  socket.on('error', () => undefined);
  return socket;
}

/** Sends these bytes and reads until the other side has closed. */
export async function exchange(
  t: Pick<TestContext, 'after'>,
  port: number,
  bytes: string | Uint8Array,
): Promise<RawAnswer> {
  const socket = await connect(t, port);
  const answer = readToEnd(socket);
  socket.write(typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes);
  return answer;
}

/** Until the other side has closed. */
export async function readToEnd(socket: Socket, timeoutMs = 20_000): Promise<RawAnswer> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk: Buffer) => chunks.push(chunk));
  if (!socket.destroyed) await within('the connection to be closed', closed(socket), timeoutMs);
  const text = Buffer.concat(chunks).toString('latin1');
  const statuses = [...text.matchAll(/HTTP\/1\.1 (\d{3}) /g)].map((m) => Number(m[1]));
  return { text, statuses, status: statuses.find((status) => status !== 100) ?? null };
}

async function closed(socket: Socket): Promise<void> {
  await new Promise((resolve) => socket.once('close', resolve));
}
