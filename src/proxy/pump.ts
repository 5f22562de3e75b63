/** A large body's way from one connection to the other, as fast as the slower of them. */

import type { ClientRequest, IncomingMessage, ServerResponse } from 'node:http';

/** Of one body at once: enough that neither side waits for the other, little beside hundreds of bodies. */
const WINDOW_BYTES = 256 * 1024;

/** A chunk counts for so much at least: one of a single byte takes hundreds of them. */
const LEAST_CHUNK_BYTES = 1024;

/**
 * Passes chunks on until told to stop. The ends of both sides are the caller's, and so are their errors.
 * A `pipe` would close the guest's side when GitLab's breaks, and costs twice the CPU.
 */
export class Pump {
  readonly #from: IncomingMessage;
  readonly #to: ClientRequest | ServerResponse;
  readonly #onBytes: (count: number) => void;
  readonly #onChunk = (chunk: Buffer): void => this.#pass(chunk);
  #underWay = 0;
  #latest: ArrayBufferLike | null = null;
  #isStopped = false;

  constructor(
    from: IncomingMessage,
    to: ClientRequest | ServerResponse,
    onBytes: (count: number) => void,
  ) {
    this.#from = from;
    this.#to = to;
    this.#onBytes = onBytes;
    from.on('data', this.#onChunk);
  }

  /**
   * Also frees what Node reads of an answer: its parser has copied the body out of it then. A guest's body is
   * read into a buffer that Node keeps.
   */
  freeReads(): void {
    const { socket } = this.#from;
    const onRead = (read: Buffer): void => {
      // A Node that passes on what it has read, and no copy, is left alone.
      if (read.buffer === this.#latest) socket.off('data', onRead);
      else free(read);
    };
    // After Node's own listener; before the next answer on that connection it would come first.
    socket.on('data', onRead);
    this.#from.once('end', () => socket.off('data', onRead));
  }

  /** What has been read is still written; the rest is left unread. */
  stop(): void {
    this.#isStopped = true;
    this.#from.off('data', this.#onChunk);
    this.#from.pause();
  }

  #pass(chunk: Buffer): void {
    const { length } = chunk;
    this.#latest = chunk.buffer;
    const counted = Math.max(length, LEAST_CHUNK_BYTES);
    this.#onBytes(length);
    this.#underWay += counted;
    this.#gather();
    this.#to.write(chunk, () => {
      this.#underWay -= counted;
      free(chunk);
      if (this.#underWay < WINDOW_BYTES && !this.#isStopped) this.#from.resume();
    });
    if (this.#underWay >= WINDOW_BYTES) this.#from.pause();
  }

  /** What comes in one turn of the event loop is one write: each is a call of the system. */
  #gather(): void {
    const { socket } = this.#to;
    if (socket === null || socket.writableCorked > 0) return;
    socket.cork();
    setImmediate(() => socket.uncork());
  }
}

/**
 * Nobody has the chunk any more. V8 counts what is outside of its heap, and collects all garbage for
 * every 64 MiB of it: many times a second at the speed of a wire.
 */
function free({ buffer, byteLength }: Buffer): void {
  if (buffer instanceof ArrayBuffer && buffer.byteLength === byteLength) buffer.transfer(0);
}
