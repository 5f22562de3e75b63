import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { advertisedFeatures, knownFeatures } from './features.ts';

describe('advertised features', () => {
  it('come from the executor until a guest has told its own', () => {
    assert.equal(advertisedFeatures('shell', undefined)['image'], false);
    assert.equal(advertisedFeatures('docker', undefined)['image'], true);
    assert.equal(advertisedFeatures('shell', undefined)['cancel_gracefully'], true);
  });

  it('never promise what does not reach into a machine, whatever a guest says', () => {
    const learned = knownFeatures({ session: true, terminal: true, two_phase_job_commit: true });
    for (const key of ['session', 'terminal', 'two_phase_job_commit']) {
      assert.equal(advertisedFeatures('shell', learned)[key], false, key);
    }
  });

  it('are what the guest has: known keys only, and nothing that it did not name', () => {
    const learned = knownFeatures({ image: true, evil: true, job_inputs: 'yes' });
    const features = advertisedFeatures('shell', learned);
    assert.equal(features['image'], true);
    assert.equal(features['job_inputs'], false);
    assert.equal('evil' in features, false);
    assert.equal(features['return_exit_code'], false);
  });

  it('are not learned from what is no object', () => {
    for (const sent of [undefined, null, 'x', 3]) assert.equal(knownFeatures(sent), undefined);
  });
});
