import assert from 'node:assert/strict';
import { once } from 'node:events';
import http, { type IncomingMessage } from 'node:http';
import { it } from 'node:test';
import { within } from '../../test/support/deadline.ts';
import { startServer } from '../../test/support/http-server.ts';
import { collect } from './collect.ts';

it('a body that goes on beyond the limit, and ends there, is not whole', async (t) => {
  const { url } = await startServer(t, (_incoming, outgoing) => {
    outgoing.end(Buffer.alloc(1500));
  });
  for (const [limit, expected] of [
    [1499, false],
    [1500, true],
  ] as const) {
    const request = http.get(url, { agent: false });
    const [answer] = (await within('an answer', once(request, 'response'))) as [IncomingMessage];
    const { isWhole } = await within('its body', collect(answer, limit));
    assert.equal(isWhole, expected, `of at most ${limit} bytes`);
  }
});
