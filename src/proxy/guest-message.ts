/** A guest's request as Node reads it, with what keeps requests made for that from taking memory without end. */

import { IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { Pieces, SMALL_PIECE_BYTES } from '../lib/pieces.ts';

/** Of a body's chunks, on average: Go's compressor, which writes the smallest of any sender's, writes 240 at once. */
const LEAST_CHUNK_BYTES = 64;

/** So many may be smaller: those of a form's fields, and of a body's end. */
const FREE_CHUNKS = 1000;

/**
 * Node keeps each chunk that nobody reads yet as an object, and counts its bytes alone: 64 KiB in chunks of one
 * byte take more than 10 MB. Here, small chunks that have to wait wait together.
 * Each takes time as well: who cuts a body into tiny ones would have most of everybody's, and is cut off.
 *
 * Node also reads on when a request comes before the one ahead of it is answered: 64 KiB of such requests take as
 * many MB. Here, the first of them ends the reading: it is made out to ask for another protocol, and the server
 * gets an `upgrade`. What does ask for one does not, and is a request as any other.
 */
export class GuestMessage extends IncomingMessage {
  /** What comes after all that the stream holds. */
  readonly #waiting = new Pieces();
  readonly #isAhead: boolean;
  #chunks = 0;
  #bytes = 0;

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
    if (this.destroyed) return false;
    this.#chunks += 1;
    this.#bytes += chunk.length;
    if (this.#chunks > FREE_CHUNKS && this.#bytes < this.#chunks * LEAST_CHUNK_BYTES) {
      this.destroy();
      return false;
    }
    const isInTurn = this.#waiting.length === 0;
    if (isInTurn && (chunk.length >= SMALL_PIECE_BYTES || this.readableLength === 0)) {
      return super.push(chunk, encoding);
    }
    this.#waiting.add(chunk);
    return this.readableLength + this.#waiting.length < this.readableHighWaterMark;
  }

  override read(size?: number): Buffer | null {
    if (this.readableLength === 0) this.#pushWaiting();
    return super.read(size);
  }

  #pushWaiting(): void {
    if (this.#waiting.length > 0) super.push(this.#waiting.take());
  }
}
