/** A guest's request as Node reads it, whose body takes as much memory as it has bytes, however it is cut into chunks. */

import { IncomingMessage } from 'node:http';
import { Pieces, SMALL_PIECE_BYTES } from '../lib/pieces.ts';

/**
 * Node keeps each chunk that nobody reads yet as an object, and counts its bytes alone: 64 KiB in chunks of one
 * byte take more than 10 MB. Here, small chunks that have to wait wait together.
 */
export class GuestMessage extends IncomingMessage {
  /** What comes after all that the stream holds. */
  readonly #waiting = new Pieces();

  override push(chunk: Buffer | null, encoding?: BufferEncoding): boolean {
    if (chunk === null) {
      this.#pushWaiting();
      return super.push(null);
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
