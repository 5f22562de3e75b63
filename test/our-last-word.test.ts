/** A job that we end ourselves: from then on its runner is not heard. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { eventually } from './support/deadline.ts';
import { startRig } from './support/rig.ts';

test('canceled before its runner spoke: what the runner says then does not reach GitLab', async (t) => {
  const rig = await startRig(t);
  const job = rig.queue();
  const guest = await rig.guest(job);
  assert.equal((await guest.request()).status, 201);
  // Our own note is not taken for now: we are about to end the job, and have not yet.
  const fault = rig.gitlab.inject({ match: { route: 'trace' }, do: { status: 503 } });
  rig.gitlab.cancel(job.id);
  await eventually('us to end it', () => fault.hits > 0);
  assert.equal(job.isFinal, false);
  assert.equal((await guest.log('too late')).status, 403);
  assert.equal((await guest.finish('success')).status, 403);
  fault.remove();
  await rig.gitlab.waitFor('the job to be over', () => job.isFinal);
  assert.equal(job.status, 'canceled');
  assert.doesNotMatch(job.log.toString(), /too late/);
  assert.deepEqual(job.verdict().anomalies, []);
  assert.equal((await rig.ended(job)).outcome, 'canceled');
});
