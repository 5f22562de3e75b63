import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type LeaseRecord, parseRecord, salvage, serializeRecord } from './record.ts';
import type { LeaseState } from './state.ts';

const final = { body: Buffer.from([0, 255, 13, 10]), outcome: 'failed' } as const;

const STATES: LeaseState[] = [
  { name: 'claimed', payload: Buffer.from('{"ü":1}'), boots: 0 },
  { name: 'booting', payload: Buffer.from([0xff, 0x00]), boots: 1 },
  { name: 'offered', payload: Buffer.from('{}'), boots: 2 },
  { name: 'running', pending: null },
  { name: 'running', pending: final },
  {
    name: 'finishing',
    outcome: 'success',
    reason: null,
    cause: null,
    owed: null,
    machineGone: false,
  },
  {
    name: 'finishing',
    outcome: 'system_failure',
    reason: 'gone',
    cause: 'host-stopped',
    owed: { kind: 'own', failureReason: 'runner_interrupted', note: 'line\n', noteAt: 5 },
    machineGone: true,
  },
  {
    name: 'finishing',
    outcome: 'failed',
    reason: null,
    cause: null,
    owed: { kind: 'repeat', final },
    machineGone: true,
  },
  { name: 'ended', outcome: 'canceled', reason: 'canceled in GitLab', cause: null },
];

function recordIn(state: LeaseState): LeaseRecord {
  return {
    facts: {
      id: 7,
      token: 'glcbt-1',
      name: 'unit',
      project: 'a/b',
      ref: 'main',
      url: null,
      timeoutSeconds: 60,
      dependencies: [{ id: 3, token: 'glcbt-3' }],
      failureReasons: ['script_failure'],
      protected: true,
      repoUrl: 'https://gitlab.example.test/a/b.git',
    },
    runner: 'build',
    runnerName: 'forrest-build-abc',
    vmToken: 'glrt-x',
    requestId: null,
    stages: [{ name: 'claimed', at: 5 }],
    state,
    entered: { at: 7, monotonic: 3.5 },
  };
}

describe('a journal entry', () => {
  for (const [index, state] of STATES.entries()) {
    it(`brings back state ${index}, ${state.name}, byte for byte`, () => {
      const record = recordIn(state);
      assert.deepEqual(parseRecord(serializeRecord(record)), record);
    });
  }

  it('that is damaged says where, and nothing of what it holds', () => {
    const text = serializeRecord(recordIn({ name: 'running', pending: null }));
    assert.deepEqual(parseRecord(text.slice(0, -5)), { problem: 'not JSON', isNewer: false });
    const broken = JSON.parse(text);
    broken.vmToken = 5;
    broken.facts.token = null;
    assert.deepEqual(parseRecord(JSON.stringify(broken)), {
      problem: 'no usable facts.token, vmToken',
      isNewer: false,
    });
  });

  it('of a later version is none of ours, damaged or not', () => {
    const text = serializeRecord(recordIn({ name: 'running', pending: null })).replace(
      '"version":1',
      '"version":2',
    );
    for (const part of [text, text.slice(0, 40)]) {
      const found = parseRecord(part);
      assert.ok('problem' in found && found.isNewer);
      assert.match(found.problem, /version 2, and this forrest-gitlab knows 1/);
    }
  });

  it('of an earlier one, without what came later, is read', () => {
    const json = JSON.parse(serializeRecord(recordIn(STATES[6] as LeaseState)));
    delete json.entered;
    delete json.state.cause;
    delete json.state.owed.noteAt;
    const found = parseRecord(JSON.stringify(json));
    assert.ok('state' in found && found.state.name === 'finishing');
    assert.equal(found.state.cause, null);
    assert.equal(found.entered.at, Number.POSITIVE_INFINITY);
  });

  it('gives away id and token from wherever it is cut off, once it holds them', () => {
    const text = serializeRecord(recordIn({ name: 'running', pending: null }));
    const whole = text.indexOf('"glcbt-1"') + '"glcbt-1"'.length;
    for (let length = 0; length <= text.length; length += 1) {
      assert.deepEqual(
        salvage(text.slice(0, length), 7),
        length < whole ? null : { id: 7, token: 'glcbt-1' },
      );
    }
  });

  it('gives away no other job’s token', () => {
    const text = serializeRecord(recordIn({ name: 'running', pending: null }));
    assert.deepEqual(salvage(text.slice(60), 7), null);
    assert.match(text.slice(60), /"id":3,"token":"glcbt-3"/);
  });
});
