import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type LeaseEvent, type LeaseState, transition } from './state.ts';

const payload = Buffer.from('{}');
const final = { body: Buffer.from('{"state":"success"}'), outcome: 'success' } as const;

const claimed: LeaseState = { name: 'claimed', payload, boots: 0 };
const booting: LeaseState = { name: 'booting', payload, boots: 1 };
const secondBoot: LeaseState = { name: 'booting', payload, boots: 2 };
const offered: LeaseState = { name: 'offered', payload, boots: 1 };
const secondOffer: LeaseState = { name: 'offered', payload, boots: 2 };
const running: LeaseState = { name: 'running', pending: null };
const remembered: LeaseState = { name: 'running', pending: final };
const taken: LeaseState = {
  name: 'finishing',
  outcome: 'success',
  reason: null,
  cause: null,
  owed: null,
  machineGone: false,
};
const held: LeaseEvent = { type: 'final-held', final };
const holding: LeaseState = { ...taken, owed: { kind: 'repeat', final } };
const owing: LeaseState = {
  name: 'finishing',
  outcome: 'system_failure',
  reason: 'gone',
  cause: 'machine-crashed',
  owed: { kind: 'own', failureReason: 'runner_system_failure', note: 'note', noteAt: null },
  machineGone: true,
};
const ended: LeaseState = { name: 'ended', outcome: 'success', reason: null, cause: null };

const machineEnded: LeaseEvent = {
  type: 'machine-ended',
  reason: 'gone',
  cause: 'machine-crashed',
  note: 'note',
};
const delivered: LeaseEvent = {
  type: 'delivered',
  outcome: 'system_failure',
  reason: 'gone',
  cause: 'machine-crashed',
};
const giveUp: LeaseEvent = {
  type: 'give-up',
  outcome: 'system_failure',
  reason: 'gone',
  cause: 'machine-crashed',
  failureReason: 'runner_system_failure',
  note: 'note',
};
const over: LeaseEvent = { type: 'over', outcome: 'canceled', reason: 'canceled in GitLab' };
const canceledAlive: LeaseState = {
  name: 'finishing',
  outcome: 'canceled',
  reason: 'canceled in GitLab',
  cause: null,
  owed: null,
  machineGone: false,
};

const placed: LeaseState = {
  name: 'finishing',
  outcome: 'system_failure',
  reason: 'gone',
  cause: 'machine-crashed',
  owed: { kind: 'own', failureReason: 'runner_system_failure', note: 'note', noteAt: 9 },
  machineGone: true,
};

/** Every pair that changes something; each other pair must change nothing. */
const TABLE: [string, LeaseState, LeaseEvent, LeaseState][] = [
  ['a claimed job boots', claimed, { type: 'booting' }, booting],
  ['the runner asks', booting, { type: 'offered' }, offered],
  ['the runner speaks', offered, { type: 'own-call' }, running],
  ['GitLab remembers the final state', running, { type: 'final-pending', final }, remembered],
  ['we hold the final state for a GitLab that is out', running, held, holding],
  ['we hold a remembered one', remembered, held, holding],
  ['GitLab takes the final state', running, { type: 'final-taken', outcome: 'success' }, taken],
  ['GitLab takes a repeated one', remembered, { type: 'final-taken', outcome: 'success' }, taken],
  [
    'a machine that ends while booting costs one more boot',
    booting,
    machineEnded,
    { name: 'claimed', payload, boots: 1 },
  ],
  [
    'a machine that ends after the offer, too: nothing has run',
    offered,
    machineEnded,
    { name: 'claimed', payload, boots: 1 },
  ],
  ['the second machine that ends while booting ends the job', secondBoot, machineEnded, owing],
  ['the second machine that ends after the offer ends the job', secondOffer, machineEnded, owing],
  ['a machine that ends while running ends the job', running, machineEnded, owing],
  [
    'a remembered final state is repeated, not overruled',
    remembered,
    machineEnded,
    {
      name: 'finishing',
      outcome: 'success',
      reason: null,
      cause: null,
      owed: { kind: 'repeat', final },
      machineGone: true,
    },
  ],
  [
    'nor by a time limit of ours',
    remembered,
    giveUp,
    {
      name: 'finishing',
      outcome: 'success',
      reason: null,
      cause: null,
      owed: { kind: 'repeat', final },
      machineGone: false,
    },
  ],
  ['the place of our note is written down', owing, { type: 'note-placed', at: 9 }, placed],
  ['the machine ends after the final state', taken, machineEnded, ended],
  [
    'what was owed is delivered after the machine',
    owing,
    delivered,
    { name: 'ended', outcome: 'system_failure', reason: 'gone', cause: 'machine-crashed' },
  ],
  ['we end a claimed job', claimed, giveUp, owing],
  ['we end a booting job', booting, giveUp, { ...owing, machineGone: false } as LeaseState],
  ['we end an offered job', offered, giveUp, { ...owing, machineGone: false } as LeaseState],
  ['we end a running job', running, giveUp, { ...owing, machineGone: false } as LeaseState],
  [
    'GitLab ends a claimed job, which has no machine',
    claimed,
    over,
    { name: 'ended', outcome: 'canceled', reason: 'canceled in GitLab', cause: null },
  ],
  ['GitLab ends a booting job', booting, over, canceledAlive],
  ['GitLab ends an offered job', offered, over, canceledAlive],
  ['GitLab ends a running job', running, over, canceledAlive],
];

describe('the life of a lease', () => {
  for (const [rule, from, event, to] of TABLE) {
    it(`${from.name}, ${event.type}: ${rule}`, () => {
      assert.deepEqual(transition(from, event), to);
    });
  }

  it('changes nothing by any other event', () => {
    const states = [
      claimed,
      booting,
      secondBoot,
      offered,
      secondOffer,
      running,
      remembered,
      taken,
      ended,
    ];
    const events: LeaseEvent[] = [
      { type: 'booting' },
      { type: 'offered' },
      { type: 'own-call' },
      { type: 'final-taken', outcome: 'success' },
      { type: 'final-pending', final },
      held,
      over,
      giveUp,
      machineEnded,
      { type: 'note-placed', at: 9 },
      delivered,
    ];
    const known = new Set(TABLE.map(([, from, event]) => `${from.name} ${event.type}`));
    for (const state of states) {
      for (const event of events) {
        const expected = known.has(`${state.name} ${event.type}`);
        // The table has one row of each pair of names; `remembered` and second boots share names.
        if (!expected) assert.equal(transition(state, event), null, `${state.name} ${event.type}`);
      }
    }
  });

  it('keeps a final state that is owed until it is delivered, whatever else happens', () => {
    for (const event of [
      over,
      giveUp,
      { type: 'final-taken', outcome: 'success' },
      machineEnded,
    ] as const) {
      assert.equal(transition(owing, event), null, event.type);
    }
  });

  it('tells no reason where GitLab only repeats the runner’s own word', () => {
    const told: LeaseEvent = { type: 'over', outcome: 'success', reason: 'whatever' };
    assert.deepEqual(transition(remembered, told), taken);
  });

  it('ends only when both the final state is delivered and the machine is gone', () => {
    const alive = { ...owing, machineGone: false } as LeaseState;
    const owingNothing = transition(alive, { ...delivered, outcome: 'canceled' });
    assert.equal(owingNothing?.name, 'finishing');
    assert.deepEqual(transition(owingNothing as LeaseState, machineEnded), {
      name: 'ended',
      outcome: 'canceled',
      reason: 'gone',
      cause: 'machine-crashed',
    });
  });
});
