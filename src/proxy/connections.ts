/** Which connections a VM token has opened: they end with it. */

import type { Socket } from 'node:net';

export class Connections {
  readonly #byToken = new Map<string, Set<Socket>>();

  /** A checked call of that token came over this connection. */
  note(vmToken: string, socket: Socket): void {
    const sockets = this.#byToken.get(vmToken) ?? new Set();
    if (sockets.has(socket)) return;
    this.#byToken.set(vmToken, sockets.add(socket));
    socket.once('close', () => this.#forget(vmToken, socket));
  }

  /** The token is dead: whatever is under way for it ends, held calls included. */
  close(vmToken: string): void {
    for (const socket of this.#byToken.get(vmToken) ?? []) socket.destroy();
    this.#byToken.delete(vmToken);
  }

  #forget(vmToken: string, socket: Socket): void {
    const sockets = this.#byToken.get(vmToken);
    sockets?.delete(socket);
    if (sockets?.size === 0) this.#byToken.delete(vmToken);
  }
}
