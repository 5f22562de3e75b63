import assert from 'node:assert/strict';
import { it } from 'node:test';
import { within } from '../../test/support/deadline.ts';
import { startServer } from '../../test/support/http-server.ts';
import { answerCall } from './calls.ts';
import { DEFAULT_LIMITS } from './limits.ts';
import { findJobRoute } from './routes.ts';

it('a fault of our own, after the body was read: an answer, and a line of the log', async (t) => {
  const errors: unknown[] = [];
  const lease = {
    facts: { id: 5, token: 'job' },
    vmToken: 'vm',
    speak: () => Promise.reject(new Error('broken')),
  };
  const services = {
    leases: { byVmToken: () => lease },
    limits: DEFAULT_LIMITS,
    clock: { after: () => ({ cancel: () => undefined }) },
    log: { error: (_message: string, fields: object) => void errors.push(fields) },
  } as unknown as Parameters<typeof answerCall>[1];
  const { url } = await startServer(t, (incoming, outgoing) => {
    const found = findJobRoute('PUT', 'jobs/5');
    assert.ok(found);
    void answerCall({ ...found, vmToken: 'vm', incoming, outgoing }, services);
  });
  const body = JSON.stringify({ token: 'job', state: 'running' });
  const answer = await within('an answer', fetch(url, { method: 'PUT', body, headers: JSON_TYPE }));
  assert.equal(answer.status, 500);
  assert.match(String(Object.values(errors[0] as object)), /broken/);
});

const JSON_TYPE = { 'content-type': 'application/json' };
