/** The guests' socket: it outlives each provider. */

import net, { type AddressInfo, type Socket } from 'node:net';
import type { ListenTarget } from 'forrest-gitlab/contract';

/** Connections wait while no provider accepts them. */
export async function openDoor(): Promise<{
  target(sockets: Set<Socket>): ListenTarget;
  leave(): void;
  close(): Promise<void>;
}> {
  const queue: Socket[] = [];
  let accept: ((socket: Socket) => void) | undefined;
  const open = new Set<Socket>();
  // As `node:http` servers have their sockets: whoever takes one over has to end it.
  const server = net.createServer({ pauseOnConnect: true, allowHalfOpen: true }, (socket) => {
    open.add(socket);
    socket.once('close', () => open.delete(socket));
    socket.on('error', () => undefined);
    if (accept === undefined) queue.push(socket);
    else accept(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const leave = (): void => {
    accept = undefined;
  };
  return {
    leave,
    target: (sockets) => ({
      address: `127.0.0.1:${port}`,
      port,
      accept(onConnection) {
        accept = (socket) => {
          sockets.add(socket);
          socket.once('close', () => sockets.delete(socket));
          onConnection(socket);
        };
        for (const socket of queue.splice(0)) accept(socket);
      },
      async close() {
        leave();
        // As long as it takes to tell whoever holds the socket.
        await new Promise((resolve) => setTimeout(resolve, 20));
      },
    }),
    async close() {
      for (const socket of open) socket.destroy();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
}
