import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { gathered } from './gathered.ts';

describe('a gathered task', () => {
  it('runs once for all who ask at once, and once more for all who ask while it runs', async () => {
    const runs: PromiseWithResolvers<void>[] = [];
    const ask = gathered(() => {
      const run = Promise.withResolvers<void>();
      runs.push(run);
      return run.promise;
    });
    const early = Promise.all([ask(), ask()]);
    await turn();
    assert.equal(runs.length, 1);
    const isLateDone = { value: false };
    const late = Promise.all([ask(), ask()]).then(() => {
      isLateDone.value = true;
    });
    await turn();
    assert.equal(runs.length, 1, 'never twice at once');
    runs[0]?.resolve();
    await early;
    await turn();
    assert.equal(runs.length, 2);
    assert.equal(isLateDone.value, false);
    runs[1]?.resolve();
    await late;
  });

  it('fails for those who asked for the run that failed, and runs again for the next', async () => {
    let runs = 0;
    const ask = gathered(async () => {
      runs += 1;
      if (runs === 1) throw new Error('no');
    });
    const first = await Promise.allSettled([ask(), ask()]);
    assert.deepEqual(
      first.map(({ status }) => status),
      ['rejected', 'rejected'],
    );
    await ask();
    assert.equal(runs, 2);
  });
});

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
