/** Every open connection of the guests: whose it is, what it does, and when it has to go. */

import { ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { type GuestRequest, type GuestResponse, isWhole } from './guest-call.ts';
import { hasBody } from './headers.ts';
import type { Limits } from './limits.ts';
import { Rate } from './rate.ts';

/** What a machine takes of us at the moment. */
interface Usage {
  connections: number;
  readonly newConnections: Rate;
  readonly calls: Rate;
}

interface Call {
  readonly incoming: GuestRequest;
  readonly outgoing: GuestResponse;
}

export class Guests {
  readonly #limits: Limits;
  readonly #monotonic: () => number;
  readonly #all = new Map<Socket, GuestConnection>();
  /** The oldest first. */
  readonly #unknown = new Set<GuestConnection>();
  readonly #usages = new Map<string, Usage>();

  constructor(limits: Limits, monotonic: () => number) {
    this.#limits = limits;
    this.#monotonic = monotonic;
  }

  /** A new one. Where there are too many, the oldest that has named no machine makes room for it. */
  admit(socket: Socket): GuestConnection {
    const connection = new GuestConnection(socket, this.#limits);
    this.#all.set(socket, connection);
    this.#unknown.add(connection);
    socket.once('close', () => this.#forget(connection));
    if (
      this.#unknown.size > this.#limits.unknownConnections ||
      this.#all.size > this.#limits.connections
    ) {
      const [oldest = connection] = this.#unknown;
      oldest.socket.destroy();
      this.#forget(oldest);
    }
    return connection;
  }

  of(socket: Socket): GuestConnection | undefined {
    return this.#all.get(socket);
  }

  /** The head of a call with the token of a live machine has come: whether that may have this connection. */
  own(connection: GuestConnection, vmToken: string): boolean {
    if (connection.vmToken === vmToken) return true;
    const usage = this.#usageOf(vmToken);
    if (usage.connections >= this.#limits.connectionsPerVm) return false;
    const isNew = connection.vmToken === null;
    if (isNew && !usage.newConnections.take(this.#monotonic())) return false;
    this.#disown(connection);
    usage.connections += 1;
    connection.vmToken = vmToken;
    return true;
  }

  /** The same of a call that is to be answered: whether that machine may make one more. */
  take(connection: GuestConnection, vmToken: string): 'ok' | 'too-many-connections' | 'too-fast' {
    if (!this.own(connection, vmToken)) return 'too-many-connections';
    return this.#usageOf(vmToken).calls.take(this.#monotonic()) ? 'ok' : 'too-fast';
  }

  /** Closes every connection of a machine. */
  end(vmToken: string): void {
    for (const { socket, vmToken: owner } of this.#all.values()) {
      if (owner === vmToken) socket.destroy();
    }
  }

  /** Closes all of them. */
  close(): void {
    for (const socket of this.#all.keys()) socket.destroy();
  }

  /** To be called now and then: ends what does not move, forgets what is not used. */
  sweep(): void {
    const now = this.#monotonic();
    for (const connection of this.#all.values()) connection.endIfStalled(now);
    for (const [vmToken, usage] of this.#usages) {
      const { connections, newConnections, calls } = usage;
      if (connections > 0 || !newConnections.isFull(now) || !calls.isFull(now)) continue;
      this.#usages.delete(vmToken);
    }
  }

  #usageOf(vmToken: string): Usage {
    const known = this.#usages.get(vmToken);
    if (known !== undefined) return known;
    const { connectionsPerSecond, connectionBurst, callsPerSecond, callBurst } = this.#limits;
    const now = this.#monotonic();
    const usage = {
      connections: 0,
      newConnections: new Rate(connectionsPerSecond, connectionBurst, now),
      calls: new Rate(callsPerSecond, callBurst, now),
    };
    this.#usages.set(vmToken, usage);
    return usage;
  }

  #disown(connection: GuestConnection): void {
    this.#unknown.delete(connection);
    const usage = connection.vmToken === null ? undefined : this.#usages.get(connection.vmToken);
    if (usage !== undefined) usage.connections -= 1;
    connection.vmToken = null;
  }

  #forget(connection: GuestConnection): void {
    if (this.#all.delete(connection.socket)) this.#disown(connection);
  }
}

export class GuestConnection {
  readonly socket: Socket;
  /** Of the machine whose token its last call named; null before. */
  vmToken: string | null = null;
  readonly #limits: Limits;
  #call: Call | null = null;
  #isClosing = false;
  #moved = -1;
  #movedAt = 0;

  constructor(socket: Socket, limits: Limits) {
    this.socket = socket;
    this.#limits = limits;
    const closeAtOnce = socket.destroySoon.bind(socket);
    // What Node calls after an answer that ends the connection.
    socket.destroySoon = () => {
      if (this.#call?.incoming.complete === false) this.#closeLingering();
      else closeAtOnce();
    };
  }

  /**
   * A request has come. False where it is not to be looked at: the connection is being closed, or the
   * call before it is not answered yet. No runner sends ahead; who does is cut off after that answer.
   */
  begin(incoming: GuestRequest, outgoing: GuestResponse): boolean {
    if (this.#isClosing || this.#call !== null) {
      this.cutOff();
      return false;
    }
    this.#call = { incoming, outgoing };
    this.#moved = -1;
    if (outgoing instanceof ServerResponse && !isWhole(incoming) && hasBody(incoming.headers)) {
      // An answer before the body's end also ends the connection: its rest is nobody's next request.
      const { shouldKeepAlive } = outgoing;
      outgoing.shouldKeepAlive = false;
      incoming.once('end', () => {
        outgoing.shouldKeepAlive = shouldKeepAlive;
      });
    }
    outgoing.once('close', () => {
      this.#call = null;
      if (this.#isClosing) this.socket.destroySoon();
    });
    return true;
  }

  /** Reads no more, and closes after the answer that is under way. */
  cutOff(): void {
    this.#isClosing = true;
    this.socket.pause();
  }

  /** Answers with these very bytes and closes; whatever still comes is thrown away. */
  refuse(answer: Uint8Array): void {
    this.#isClosing = true;
    this.socket.write(answer);
    if (this.#call?.incoming.complete === true) this.socket.destroySoon();
    else this.#closeLingering();
  }

  /** The guest neither sends a body that we would take nor takes an answer that we have. */
  endIfStalled(now: number): void {
    const moved = this.socket.bytesRead + this.socket.bytesWritten;
    if (!this.#waitsForGuest() || moved !== this.#moved) {
      this.#moved = moved;
      this.#movedAt = now;
    } else if (now - this.#movedAt >= this.#limits.idleMs) {
      this.socket.destroy();
    }
  }

  #waitsForGuest(): boolean {
    if (this.#call === null) return false;
    const { incoming, outgoing } = this.#call;
    // A held body has no reader, one that GitLab is slow to take is paused.
    const isRead =
      !isWhole(incoming) &&
      (incoming.readableFlowing === true || incoming.listenerCount('readable') > 0);
    return (isRead && !incoming.complete) || outgoing.writableLength > 0;
  }

  #closeLingering(): void {
    this.#isClosing = true;
    this.socket.end();
    if (this.#call !== null && !isWhole(this.#call.incoming)) this.#call.incoming.resume();
    const limit = setTimeout(() => this.socket.destroy(), this.#limits.lingerMs);
    this.socket.once('close', () => clearTimeout(limit));
  }
}
