/** Calls over plain sockets: what is sent is made once, so that the client is not what is measured. */

import { once } from 'node:events';
import net, { type Socket } from 'node:net';
import type { Vm } from '../proxy/load.ts';

const LOG = `${'x'.repeat(2047)}\n`;

export async function open(port: number): Promise<Socket> {
  const socket = net.connect({ port, host: '127.0.0.1', noDelay: true });
  socket.on('error', () => undefined);
  await Promise.race([once(socket, 'connect'), once(socket, 'close')]);
  return socket;
}

/** 2 KiB of log, at that place of it. */
export function patchOf(vm: Vm, offset: number): Buffer {
  return Buffer.from(
    `PATCH ${vm.path}/trace?debug_trace=false HTTP/1.1\r\nHost: x\r\nJOB-TOKEN: ${vm.token}\r\nContent-Type: text/plain\r\nContent-Range: ${offset}-${offset + LOG.length - 1}\r\nContent-Length: ${LOG.length}\r\n\r\n${LOG}`,
  );
}

export const LOG_BYTES: number = LOG.length;

/** Resolves with the status of the one answer that is awaited; 0: closed without one. */
export async function call(socket: Socket, request: Buffer): Promise<number> {
  if (socket.destroyed) return 0;
  const { promise, resolve } = Promise.withResolvers<number>();
  const onData = (data: Buffer): void => resolve(Number(data.toString('latin1', 9, 12)));
  const onClose = (): void => resolve(0);
  socket.once('data', onData).once('close', onClose);
  socket.write(request);
  const status = await promise;
  socket.off('data', onData).off('close', onClose);
  return status;
}
