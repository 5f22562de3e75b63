/** 10,000 forged events a second for 5 s, and as many that know the secret: a job that runs meanwhile runs on. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { suite, type TestContext, test } from 'node:test';
import { eventually, within } from '../support/deadline.ts';
import { writePrivate } from '../support/files.ts';
import { createRig } from '../support/rig.ts';

const SECRET = 'the-secret-of-the-webhook';
const PER_SECOND = 10_000;
const SECONDS = 5;
const CONNECTIONS = 10;
const TICK_MS = 10;
const LIMIT_MS = 120_000;

function eventWith(secret: string): Buffer {
  const body = JSON.stringify({ object_kind: 'build', build_status: 'pending', build_id: 7 });
  return Buffer.from(
    `POST /gitlab/webhook HTTP/1.1\r\nHost: x\r\nX-Gitlab-Token: ${secret}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
}

/** Sends them ahead of their answers, at that rate; resolves when all are answered, with how many by each status. */
async function storm(t: TestContext, socketPath: string, event: Buffer): Promise<object> {
  const answers: Record<string, number> = {};
  let answered = 0;
  const sockets = await Promise.all(
    Array.from({ length: CONNECTIONS }, async () => {
      const socket = net.connect(socketPath);
      t.after(() => socket.destroy());
      await once(socket, 'connect');
      let rest = '';
      socket.on('data', (data) => {
        const text = rest + data.toString('latin1');
        for (const [, status = ''] of text.matchAll(/HTTP\/1\.1 (\d{3})/g)) {
          answers[status] = (answers[status] ?? 0) + 1;
          answered += 1;
        }
        // What may be the beginning of the next one.
        rest = text.slice(-11);
      });
      return socket;
    }),
  );
  const perTick = Buffer.concat(
    Array.from({ length: (PER_SECOND * TICK_MS) / 1000 / CONNECTIONS }, () => event),
  );
  for (let tick = 0; tick < (SECONDS * 1000) / TICK_MS; tick += 1) {
    for (const socket of sockets) socket.write(perTick);
    await new Promise((resolve) => setTimeout(resolve, TICK_MS));
  }
  await eventually('every event to be answered', () => answered === PER_SECOND * SECONDS, LIMIT_MS);
  return answers;
}

suite('a storm of events', { timeout: 2 * LIMIT_MS }, () => {
  for (const [what, secret, status] of [
    ['forged', 'forged', '401'],
    ['with the secret', SECRET, '204'],
  ] as const) {
    test(what, async (t) => {
      const rig = await createRig(t, {
        section: { check_interval: '1h', webhook_secret_file: 'webhook.secret' },
      });
      await writePrivate(path.join(rig.directory, 'webhook.secret'), `${SECRET}\n`);
      const job = rig.queue();
      await rig.start();
      const guest = await rig.guest(job);
      await guest.takeJob();
      await eventually('the runner to rest', () => {
        const row = rig.status().providers[0]?.status.runners[0];
        return row?.notClaiming === 'no job a moment ago';
      });
      const asks = (): number =>
        rig.gitlab.requests.filter(({ route }) => route === 'jobs-request').length;
      const before = asks();
      const startedAt = performance.now();
      let over = false;
      const raging = storm(t, rig.host.apiSocket, eventWith(secret)).finally(() => {
        over = true;
      });
      let lines = 0;
      while (!over) {
        lines += 1;
        assert.equal((await guest.log(`line ${lines}\n`)).status, 202);
      }
      assert.deepEqual(await within('the storm', raging, LIMIT_MS), {
        [status]: PER_SECOND * SECONDS,
      });
      const seconds = (performance.now() - startedAt) / 1000;
      const more = asks() - before;
      t.diagnostic(`${seconds.toFixed(1)} s, ${more} asks, ${lines} lines of log meanwhile`);
      // As documented: ten at once, then two a second. A forged one is no reason at all.
      assert.ok(more <= (secret === SECRET ? 10 + 2 * Math.ceil(seconds) : 0), `${more} asks`);
      await eventually('the final state to be taken', async () => {
        const { status } = await guest.finish('success');
        return status === 200;
      });
      await guest.powerOff();
      await rig.ended(job);
      assert.deepEqual(job.verdict(), { handedOut: 1, ended: 1, logIntact: true, anomalies: [] });
    });
  }
});
