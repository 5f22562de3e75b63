/** Bytes that come in pieces of any size, kept without an object for each. */

/** A smaller piece is copied: as an object of its own it takes hundreds of bytes, however small it is. */
export const SMALL_PIECE_BYTES = 1024;

/** Small ones fill blocks of this size: little is wasted where large ones come in between. */
const BLOCK_BYTES = 4 * SMALL_PIECE_BYTES;

export class Pieces {
  #kept: Buffer[] = [];
  /** Where the next small one goes, behind `#filled` bytes. */
  #block: Buffer | null = null;
  #filled = 0;
  #length = 0;

  /** Bytes in all. */
  get length(): number {
    return this.#length;
  }

  add(piece: Buffer): void {
    this.#length += piece.length;
    if (piece.length >= SMALL_PIECE_BYTES) {
      this.#keepBlock();
      this.#kept.push(piece);
      return;
    }
    if (this.#filled + piece.length > BLOCK_BYTES) this.#keepBlock();
    this.#block ??= Buffer.allocUnsafeSlow(BLOCK_BYTES);
    piece.copy(this.#block, this.#filled);
    this.#filled += piece.length;
  }

  /** All of them in one, and none is left. */
  take(): Buffer {
    this.#keepBlock();
    const kept = this.#kept;
    this.#kept = [];
    this.#length = 0;
    return kept.length === 1 ? (kept[0] as Buffer) : Buffer.concat(kept);
  }

  #keepBlock(): void {
    if (this.#block !== null) this.#kept.push(this.#block.subarray(0, this.#filled));
    this.#block = null;
    this.#filled = 0;
  }
}
