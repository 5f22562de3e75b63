/** The peer of the `pool` benchmark: a pool that sorts everything that waits at each event. */

export interface NaiveRequest {
  readonly id: number;
  readonly provider: string;
  readonly bytes: number;
  readonly firm: boolean;
  readonly since: number;
}

interface NaiveState {
  readonly ramBytes: number;
  readonly requests: readonly NaiveRequest[];
  readonly rooms: readonly NaiveRequest[];
}

export class NaivePool {
  #state: NaiveState;

  constructor(ramBytes: number) {
    this.#state = { ramBytes, requests: [], rooms: [] };
  }

  /** Fills it without a decision. */
  fill(rooms: readonly NaiveRequest[], requests: readonly NaiveRequest[]): void {
    this.#state = { ...this.#state, rooms, requests };
  }

  request(request: NaiveRequest): number[] {
    this.#state = { ...this.#state, requests: [...this.#state.requests, request] };
    return this.#decide();
  }

  release(id: number): number[] {
    const rooms = this.#state.rooms.filter((room) => room.id !== id);
    this.#state = { ...this.#state, rooms };
    return this.#decide();
  }

  #decide(): number[] {
    const granted: number[] = [];
    for (let next = this.#pick(); next !== undefined; next = this.#pick()) {
      const { id } = next;
      const requests = this.#state.requests.filter((request) => request.id !== id);
      this.#state = { ...this.#state, requests, rooms: [...this.#state.rooms, next] };
      granted.push(id);
    }
    return granted;
  }

  #pick(): NaiveRequest | undefined {
    const { requests, rooms, ramBytes } = this.#state;
    const held = new Map<string, number>();
    let free = ramBytes;
    for (const { provider, bytes } of rooms) {
      held.set(provider, (held.get(provider) ?? 0) + bytes);
      free -= bytes;
    }
    return requests
      .toSorted(
        (a, b) =>
          (held.get(a.provider) ?? 0) - (held.get(b.provider) ?? 0) ||
          Number(b.firm) - Number(a.firm) ||
          a.since - b.since ||
          a.id - b.id,
      )
      .find((request) => request.bytes <= free);
  }
}
