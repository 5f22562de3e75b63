import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Backoff } from './backoff.ts';

const timings = { backoffMs: 1000, backoffCapMs: 60_000 };

function backoffWith(random: number): { backoff: Backoff; clock: { at: number } } {
  const clock = { at: 0 };
  const backoff = new Backoff(timings, { random: () => random }, { monotonic: () => clock.at });
  return { backoff, clock };
}

describe('the back-off', () => {
  it('doubles up to the cap, and begins anew after an answer', () => {
    const { backoff } = backoffWith(1);
    const delays = Array.from({ length: 8 }, () => backoff.next(undefined));
    assert.deepEqual(delays, [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
    backoff.reset();
    assert.equal(backoff.next(undefined), 1000);
  });

  it('is jittered over its whole length', () => {
    assert.equal(backoffWith(0).backoff.next(undefined), 0);
    assert.equal(backoffWith(0.5).backoff.next(undefined), 500);
  });

  it('obeys Retry-After up to the cap', () => {
    assert.equal(backoffWith(0).backoff.next(7000), 7000);
    assert.equal(backoffWith(0).backoff.next(3_600_000), 60_000);
  });

  it('holds back every runner of the same GitLab', () => {
    const { backoff, clock } = backoffWith(1);
    backoff.next(undefined);
    assert.equal(backoff.remaining(), 1000);
    clock.at = 400;
    assert.equal(backoff.remaining(), 600);
    backoff.reset();
    assert.equal(backoff.remaining(), 0);
  });
});
