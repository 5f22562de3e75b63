import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type LeaseRecord, parseRecord, serializeRecord } from './record.ts';
import type { LeaseState } from './state.ts';

const final = { body: Buffer.from([0, 255, 13, 10]), outcome: 'failed' } as const;

const STATES: LeaseState[] = [
  { name: 'claimed', payload: Buffer.from('{"ü":1}'), boots: 0 },
  { name: 'booting', payload: Buffer.from([0xff, 0x00]), boots: 1 },
  { name: 'offered', payload: Buffer.from('{}'), boots: 2 },
  { name: 'running', pending: null },
  { name: 'running', pending: final },
  { name: 'finishing', outcome: 'success', reason: null, owed: null, machineGone: false },
  {
    name: 'finishing',
    outcome: 'system_failure',
    reason: 'gone',
    owed: { kind: 'own', failureReason: 'runner_interrupted', note: 'line\n' },
    machineGone: true,
  },
  {
    name: 'finishing',
    outcome: 'failed',
    reason: null,
    owed: { kind: 'repeat', final },
    machineGone: true,
  },
  { name: 'ended', outcome: 'canceled', reason: 'canceled in GitLab' },
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
    assert.deepEqual(parseRecord(text.slice(0, -5)), { problem: 'not JSON' });
    const broken = JSON.parse(text);
    broken.vmToken = 5;
    broken.facts.token = null;
    assert.deepEqual(parseRecord(JSON.stringify(broken)), {
      problem: 'no usable facts.token, vmToken',
    });
  });
});
