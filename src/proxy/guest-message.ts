/** A guest's request as Node reads it, with what keeps requests made for that from taking memory without end. */

import { IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { Pieces, SMALL_PIECE_BYTES } from '../lib/pieces.ts';

/** A chunk of fewer bytes takes more time than those are worth. */
const TINY_CHUNK_BYTES = 64;

/** So many of them cost nothing: those of a form, and of a report that a runner compresses file by file. */
const FREE_CHUNKS = 1000;

/** For each further one, the body rests so long: a report of ten thousand files takes some seconds more. */
const REST_MS = 0.5;

/**
 * Node keeps each chunk that nobody reads yet as an object, and counts its bytes alone: 64 KiB in chunks of one
 * byte take more than 10 MB. Here, small chunks that have to wait wait together.
 * Each takes time as well: who cuts a body into tiny ones would have most of everybody's, and is slowed down.
 *
 * Node also reads on when a request comes before the one ahead of it is answered: 64 KiB of such requests take as
 * many MB. Here, the first of them ends the reading: it is made out to ask for another protocol, and the server
 * gets an `upgrade`. What does ask for one does not, and is a request as any other.
 */
export class GuestMessage extends IncomingMessage {
  /** What comes after all that the stream holds. */
  readonly #waiting = new Pieces();
  readonly #isAhead: boolean;
  #tinyChunks = 0;
  #isResting = false;

  constructor(socket: Socket & { _httpMessage?: ServerResponse | null }) {
    super(socket);
    // The answer that is under way on it, as long as it is.
    this.#isAhead = Boolean(socket._httpMessage);
  }

  /** Node cuts off a `CONNECT` by itself. */
  get upgrade(): boolean {
    return this.#isAhead || this.method === 'CONNECT';
  }

  /** Node says what the request asks for. */
  set upgrade(_: boolean | null) {}

  override push(chunk: Buffer | null, encoding?: BufferEncoding): boolean {
    if (chunk === null) {
      this.#pushWaiting();
      return super.push(null);
    }
    let takesMore: boolean;
    const othersWait = this.#waiting.length > 0 || this.readableLength > 0;
    if (chunk.length < SMALL_PIECE_BYTES && othersWait) {
      this.#waiting.add(chunk);
      takesMore = this.readableLength + this.#waiting.length < this.readableHighWaterMark;
    } else {
      this.#pushWaiting();
      takesMore = super.push(chunk, encoding);
    }
    if (chunk.length < TINY_CHUNK_BYTES) this.#tinyChunks += 1;
    if (this.#tinyChunks > FREE_CHUNKS) this.#rest();
    return takesMore && !this.#isResting;
  }

  override _read(size: number): void {
    if (!this.#isResting) super._read(size);
  }

  override read(size?: number): Buffer | null {
    if (this.readableLength === 0) this.#pushWaiting();
    return super.read(size);
  }

  /** Reads no more for a while. What Node has read already still comes, in this turn. */
  #rest(): void {
    if (this.#isResting) return;
    this.#isResting = true;
    setImmediate(() => {
      const restMs = (this.#tinyChunks - FREE_CHUNKS) * REST_MS;
      setTimeout(() => {
        this.#tinyChunks = FREE_CHUNKS;
        this.#isResting = false;
        this._read(0);
      }, restMs);
    });
  }

  #pushWaiting(): void {
    if (this.#waiting.length > 0) super.push(this.#waiting.take());
  }
}
