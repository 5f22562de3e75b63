import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { eventually, within } from '../../test/support/deadline.ts';
import { systemClock } from '../lib/clock.ts';
import { GitlabHealth, type Probed } from './index.ts';

const OUT: Probed = { ok: false, reason: 'connect ECONNREFUSED' };

function healthOf(results: Probed[], probeMs = 5) {
  const asked: number[] = [];
  const health = new GitlabHealth({
    clock: systemClock,
    timings: { probeMs, probeCapMs: 10, retryAfterCapMs: 50 },
    async probe() {
      asked.push(performance.now());
      return results.length > 1 ? (results.shift() as Probed) : (results[0] as Probed);
    },
  });
  return { health, asked, results };
}

/** Each probe waits until the test answers it. */
function probedByHand() {
  const probes: Array<(result: Probed) => void> = [];
  const health = new GitlabHealth({
    clock: systemClock,
    timings: { probeMs: 1, probeCapMs: 1, retryAfterCapMs: 1 },
    probe: () => new Promise((resolve) => probes.push(resolve)),
  });
  return { health, probes };
}

const forever = (): AbortSignal => new AbortController().signal;

describe('whether GitLab answers', () => {
  it('is out only when the probe fails too, since the first failure', async () => {
    const told: Array<number | null> = [];
    const { health, results } = healthOf([OUT]);
    health.onChange((since) => told.push(since));
    const before = Date.now();
    health.suspect('it answers 502');
    assert.equal(health.isOpen, false);
    assert.equal(health.outSince, null);
    const since = await eventually('the outage', () => health.outSince ?? undefined);
    assert.ok(since >= before && since <= Date.now());
    assert.equal(health.reason, 'connect ECONNREFUSED');
    results[0] = { ok: true };
    await eventually('its end', () => health.isOpen);
    assert.deepEqual(told, [since, null]);
    health.close();
  });

  it('is not out where the probe succeeds, and is not asked again for every failure', async () => {
    const { health, asked } = healthOf([{ ok: true }], 10_000);
    health.suspect('it answers 500');
    await eventually('the probe', () => health.isOpen);
    for (let n = 0; n < 100; n += 1) health.suspect('it answers 500');
    assert.equal(health.isOpen, true);
    assert.equal(asked.length, 1);
    assert.equal(health.outages, 0);
  });

  it('is not out by a probe that was sent before an answer, and goes on with one at a time', async () => {
    const { health, probes } = probedByHand();
    health.suspect('cut');
    health.answered();
    health.suspect('cut');
    assert.equal(probes.length, 2);
    probes[0]?.(OUT);
    await new Promise(setImmediate);
    assert.equal(health.outSince, null);
    probes[1]?.(OUT);
    await eventually('the outage', () => health.outSince !== null);
    for (const count of [3, 4, 5]) {
      await eventually('the next probe', () => probes.length >= count);
      assert.equal(probes.length, count);
      probes[count - 1]?.(OUT);
    }
    health.close();
  });

  it('is back as soon as anybody is answered', async () => {
    const { health } = healthOf([OUT]);
    health.suspect('cut');
    await eventually('the outage', () => health.outSince !== null);
    const entered = health.enter(forever());
    health.answered();
    assert.ok(await within('to be let in', entered));
    health.close();
  });

  it('obeys Retry-After up to its cap', async () => {
    const { health, asked } = healthOf([{ ...OUT, retryAfterMs: 3_600_000 }, { ok: true }]);
    health.suspect('it answers 503');
    await eventually('its end', () => health.isOpen);
    assert.ok((asked[1] ?? 0) - (asked[0] ?? 0) >= 45);
  });

  it('lets those who waited in a few at a time, in their order', async () => {
    const { health, results } = healthOf([OUT]);
    health.suspect('cut');
    await eventually('the outage', () => health.outSince !== null);
    const entered: number[] = [];
    const leaves: Array<() => void> = [];
    for (let n = 0; n < 20; n += 1) {
      void health.enter(forever()).then((leave) => {
        entered.push(n);
        if (leave !== undefined) leaves.push(leave);
      });
    }
    results[0] = { ok: true };
    await eventually('the first', () => entered.length === 8);
    assert.equal(health.isOpen, true, 'newcomers do not queue behind them');
    leaves.shift()?.();
    leaves[0]?.();
    await eventually('two more', () => entered.length === 10);
    for (let n = 0; n < 20; n += 1) {
      leaves[n]?.();
      await new Promise((resolve) => setImmediate(resolve));
    }
    await eventually('all', () => entered.length === 20);
    assert.deepEqual(
      entered,
      [...entered].sort((a, b) => a - b),
    );
  });

  it('was never out: who waited for the probe goes on at once, and next time nobody waits', async () => {
    const { health, probes } = probedByHand();
    health.suspect('it answers 500');
    assert.equal(health.isOpen, false);
    const entered = Array.from({ length: 20 }, () => health.enter(forever()));
    probes[0]?.({ ok: true });
    await within('all to be let in', Promise.all(entered));
    await eventually('the next suspicion', () => {
      health.suspect('it answers 500');
      return probes.length === 2;
    });
    assert.deepEqual([health.isUp, health.isOpen], [false, true]);
    probes[1]?.(OUT);
    await eventually('the outage', () => !health.isOpen);
    health.close();
  });

  it('forgets whoever stops waiting', async () => {
    const { health } = healthOf([OUT]);
    health.suspect('cut');
    await eventually('the outage', () => health.outSince !== null);
    const gone = new AbortController();
    const entered = health.enter(gone.signal);
    assert.equal(health.waiting, 1);
    gone.abort();
    assert.equal(await within('to be told', entered), undefined);
    assert.equal(health.waiting, 0);
    health.close();
  });
});
