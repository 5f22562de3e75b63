import assert from 'node:assert/strict';
import { it } from 'node:test';
import { EarlyAsks } from './early-asks.ts';

/** How many are let through of so many, one a millisecond. */
function taken(events: number, found: boolean): number {
  let now = 0;
  const asks = new EarlyAsks({ monotonic: () => now });
  let count = 0;
  for (; now < events; now += 1) {
    if (!asks.take()) continue;
    count += 1;
    if (found) asks.giveBack();
  }
  return count;
}

it('a storm of events that lead to nothing: ten asks, then two a second', () => {
  const count = taken(5000, false);
  assert.ok(count >= 19 && count <= 20, String(count));
});

it('events that lead to jobs are not limited', () => {
  assert.equal(taken(5000, true), 5000);
});
