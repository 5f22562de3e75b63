import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createTestLog } from '../../test/support/github-rig.ts';
import { systemClock } from '../lib/clock.ts';
import { JournaledState } from './journaled-state.ts';
import type { LeaseRecord } from './record.ts';
import { bareFacts } from './salvaged.ts';

const long = { at: systemClock.now() - 3_600_000, monotonic: systemClock.monotonic() - 3_600_000 };

const record: LeaseRecord = {
  facts: bareFacts({ id: 7, token: 'token' }),
  runner: 'small',
  runnerName: 'machine',
  vmToken: 'vm-token',
  requestId: null,
  stages: [{ name: 'running', at: long.at }],
  state: { name: 'running', pending: null },
  entered: long,
};

describe('a final update that could not be journaled', () => {
  it('changes nothing: the job has been running as long as before', async () => {
    const entries: LeaseRecord[] = [];
    const journaled = new JournaledState(
      record,
      {
        clock: systemClock,
        journal: {
          async put(entry) {
            entries.push(entry);
            return false;
          },
          remove: async () => false,
          setAside: async () => undefined,
        },
        checkpoint: async () => undefined,
        newIdentity: async () => ({ runnerName: 'other', vmToken: 'other' }),
      },
      createTestLog([]),
      () => assert.fail('nothing follows from it'),
    );
    await journaled.apply({
      type: 'final-held',
      final: { body: Buffer.from('{"state":"success"}'), outcome: 'success' },
    });
    assert.deepEqual(journaled.record, record);
    assert.deepEqual(entries.at(-1), record);
  });
});
