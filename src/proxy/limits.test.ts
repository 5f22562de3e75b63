import assert from 'node:assert/strict';
import { suite, test } from 'node:test';
import { DEFAULT_LIMITS, effectiveLimits } from './limits.ts';
import { Rate } from './rate.ts';

suite('limits', () => {
  test('leave three quarters of the files that the process may open', () => {
    const few = effectiveLimits(DEFAULT_LIMITS, 1024);
    assert.equal(few.connections, 256);
    assert.equal(few.unknownConnections, 128);
    assert.equal(few.connectionsPerVm, DEFAULT_LIMITS.connectionsPerVm);
  });

  test('stay as they are where there are enough', () => {
    assert.deepEqual(effectiveLimits(DEFAULT_LIMITS, 1_000_000), DEFAULT_LIMITS);
    assert.deepEqual(effectiveLimits(DEFAULT_LIMITS, Number.POSITIVE_INFINITY), DEFAULT_LIMITS);
  });
});

suite('a rate', () => {
  test('lets a burst pass, then so many per second', () => {
    const rate = new Rate(10, 3, 0);
    assert.deepEqual(
      [0, 0, 0, 0].map((now) => rate.take(now)),
      [true, true, true, false],
    );
    assert.ok(!rate.take(99));
    assert.ok(rate.take(100));
    assert.ok(!rate.take(100));
  });

  test('gathers no more than its burst', () => {
    const rate = new Rate(10, 2, 0);
    rate.take(0);
    assert.ok(!rate.isFull(0));
    assert.ok(rate.isFull(1_000_000));
    assert.deepEqual(
      [1, 2, 3].map(() => rate.take(1_000_000)),
      [true, true, false],
    );
  });
});
