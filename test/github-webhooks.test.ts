/** GitHub's webhooks: what is answered, and what late, repeated and wrong ones do. */

import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import http from 'node:http';
import { describe, it } from 'node:test';
import { eventually, within } from './support/deadline.ts';
import { type GithubRig, SECRET, startGithubRig } from './support/github-rig.ts';

function signed(body: string, secret = SECRET): Record<string, string> {
  return {
    'x-github-event': 'workflow_job',
    'x-hub-signature-256': `sha256=${createHmac('sha256', secret).update(body).digest('hex')}`,
  };
}

async function statusOf(
  rig: GithubRig,
  body: string,
  headers: Record<string, string>,
  at?: string,
): Promise<number> {
  const response = await rig.post(body, headers, at);
  await response.text();
  return response.status;
}

describe('a webhook is answered', () => {
  it('404 on another path, 405 to another method', async (t) => {
    const rig = await startGithubRig(t, { webhooks: false });
    assert.equal(await statusOf(rig, '{}', signed('{}'), `${rig.webhookUrl}/more`), 404);
    const response = await fetch(rig.webhookUrl, { headers: signed('') });
    assert.equal(response.status, 405);
    assert.equal(await response.text(), 'only POST is allowed\n');
  });

  it('400 without its headers, or with a signature that is wrong or none', async (t) => {
    const rig = await startGithubRig(t, { webhooks: false });
    const body = JSON.stringify({ zen: 'Keep it logically awesome.' });
    const { 'x-github-event': event = '', 'x-hub-signature-256': signature = '' } = signed(body);
    const cases: Record<string, string>[] = [
      { 'x-hub-signature-256': signature },
      { 'x-github-event': event },
      { 'x-github-event': event, 'x-hub-signature-256': signature.replace('sha256=', 'sha1=') },
      { 'x-github-event': event, 'x-hub-signature-256': 'sha256=nothex' },
      { 'x-github-event': event, 'x-hub-signature-256': signature.slice(0, -1) },
      signed(body, 'another secret'),
      signed(`${body} `),
    ];
    for (const headers of cases) {
      assert.equal(await statusOf(rig, body, headers), 400, JSON.stringify(headers));
    }
    assert.equal(await statusOf(rig, body, { ...signed(body), 'x-github-event': 'ping' }), 204);
    assert.ok(rig.log.some((line) => line.includes('the signature is wrong')));
    assert.ok(!rig.log.some((line) => line.includes(SECRET)));
  });

  it('400 where it is no event as documented, 401 for an unlisted repository', async (t) => {
    const rig = await startGithubRig(t, { webhooks: false });
    const job = rig.queue();
    const good = rig.github.webhookPayload(job);
    const send = async (payload: unknown): Promise<number> => {
      const body = typeof payload === 'string' ? payload : JSON.stringify(payload);
      return await statusOf(rig, body, signed(body));
    };
    assert.equal(await send('not json'), 400);
    assert.equal(await send('payload=%7B%7D'), 400);
    assert.equal(await send('[]'), 400);
    assert.equal(await send({ ...good, repository: undefined }), 400);
    assert.equal(await send({ ...good, repository: { name: 'demo' } }), 400);
    assert.equal(await send({ ...good, installation: undefined }), 400);
    assert.equal(await send({ ...good, workflow_job: { id: 'one' } }), 400);
    const elsewhere = { name: 'demo', owner: { login: 'stranger' } };
    assert.equal(await send({ ...good, repository: elsewhere }), 401);
    // Listed comes before whole, as in Forrest.
    assert.equal(await send({ repository: elsewhere }), 401);
    // An App of a whole organization sends many of these.
    const refusals = rig.log.filter((line) => line.includes('stranger/demo is not in the'));
    assert.deepEqual(
      refusals.map((line) => line.split(' ')[0]),
      ['warn', 'debug'],
    );
    assert.deepEqual(rig.provider.status().jobs, []);
    assert.equal(await send(good), 204);
    assert.equal(rig.provider.status().jobs.length, 1);
  });

  it('204 for a status that nobody knows yet, and gets no machine for it', async (t) => {
    const rig = await startGithubRig(t, { webhooks: false });
    const payload = rig.github.webhookPayload(rig.queue());
    const job = payload['workflow_job'] as object;
    const body = JSON.stringify({ ...payload, workflow_job: { ...job, status: 'pondering' } });
    assert.equal(await statusOf(rig, body, signed(body)), 204);
    assert.equal(rig.provider.status().jobs[0]?.state, 'waiting');
  });

  it('204 whatever the case of owner and repository', async (t) => {
    const rig = await startGithubRig(t, {
      webhooks: false,
      repositories: { LAB: { Demo: { machines: { small: {} } } } },
    });
    const payload = rig.github.webhookPayload(rig.queue());
    const body = JSON.stringify(payload);
    assert.equal(await statusOf(rig, body, signed(body)), 204);
    const machine = await rig.machine();
    assert.equal(machine.machineType.name, 'LAB/Demo/small');
  });

  it('413 where it is larger than any of GitHub’s, before it has come whole', async (t) => {
    const rig = await startGithubRig(t, { webhooks: false });
    const answered = new Promise<number>((resolve, reject) => {
      const request = http.request(rig.webhookUrl, {
        method: 'POST',
        headers: { ...signed('x'), 'transfer-encoding': 'chunked' },
      });
      request.once('response', (response) => {
        resolve(response.statusCode ?? 0);
        request.destroy();
      });
      request.once('error', reject);
      const chunk = Buffer.alloc(1024 * 1024);
      const write = (left: number): void => {
        if (left > 0) request.write(chunk, () => write(left - 1));
      };
      write(40);
    });
    assert.equal(await within('the answer', answered), 413);
  });

  it('503 once the provider has stopped', async (t) => {
    const rig = await startGithubRig(t, { webhooks: false });
    await rig.provider.stop('leave');
    assert.equal(await statusOf(rig, '{}', signed('{}')), 503);
  });
});

describe('webhooks', () => {
  it('that are repeated count once', async (t) => {
    const rig = await startGithubRig(t);
    rig.github.webhooks.copies = 3;
    const job = rig.queue();
    await rig.machine();
    const [first] = rig.github.webhooks.all;
    const again = await rig.github.webhooks.redeliver(first?.guid ?? '');
    assert.equal(again.status, 204);
    // Its id is what counts: GitHub never uses one twice.
    rig.github.setWebhook(null);
    const unheard = rig.github.webhookPayload(rig.queue({ name: 'unheard' }));
    rig.github.setWebhook({ url: rig.webhookUrl, secret: SECRET });
    const { status } = await rig.github.webhooks.send('workflow_job', unheard, {
      guid: first?.guid ?? '',
    });
    assert.equal(status, 204);
    assert.equal(rig.provider.status().jobs.length, 1);
    rig.queue({ name: 'second' });
    await rig.machine(2);
    await eventually('two runners', () => rig.github.runners().length === 2);
    assert.equal(rig.machines.length, 2);
    assert.equal(rig.provider.status().jobs.filter((row) => row.id === String(job.id)).length, 1);
  });

  it('that come late do not bring a finished job back', async (t) => {
    const rig = await startGithubRig(t);
    const job = rig.queue();
    const queued = rig.github.webhookPayload(job, 'queued');
    const machine = await rig.machine();
    await machine.guest('connect');
    await machine.guest('next');
    const running = rig.github.webhookPayload(job, 'in_progress');
    await machine.guest(`jobs/${job.id}/complete`, 'success\n');
    await eventually('the row', () => rig.history.length === 1);
    machine.end();
    for (const payload of [running, queued]) {
      assert.equal((await rig.github.webhooks.send('workflow_job', payload)).status, 204);
    }
    assert.deepEqual(rig.provider.status().jobs, []);
    // Whatever these could have set off would be there with the next job's machine.
    rig.queue({ name: 'next' });
    await rig.machine(2);
    assert.equal(rig.machines.length, 2);
    assert.equal(rig.history.length, 1);
  });

  it('in the reverse order end in the same', async (t) => {
    const rig = await startGithubRig(t);
    rig.github.webhooks.hold();
    const job = rig.queue();
    rig.github.cancel(job);
    await rig.github.webhooks.release((held) => held.toReversed());
    const other = rig.queue({ name: 'other' });
    const machine = await rig.machine();
    assert.deepEqual(
      rig.provider.status().jobs.map((row) => row.id),
      [String(other.id)],
    );
    assert.equal(rig.github.runners()[0]?.name, machine.runnerName);
    assert.equal(rig.machines.length, 1);
  });

  it('with a bad signature change nothing', async (t) => {
    const rig = await startGithubRig(t, { webhooks: false });
    const payload = rig.github.webhookPayload(rig.queue());
    rig.github.setWebhook({ url: rig.webhookUrl, secret: SECRET });
    for (const signature of ['wrong', 'missing'] as const) {
      const { status } = await rig.github.webhooks.send('workflow_job', payload, { signature });
      assert.equal(status, 400);
    }
    assert.deepEqual(rig.provider.status().jobs, []);
    // The same delivery, signed well, is not taken for a repetition of the bad one.
    const guid = rig.github.webhooks.all[0]?.guid ?? '';
    const good = await rig.github.webhooks.send('workflow_job', payload, { guid });
    assert.equal(good.status, 204);
    await rig.machine();
  });

  it('of a repository that is not listed start nothing', async (t) => {
    const rig = await startGithubRig(t);
    rig.github.createRepository('lab/other');
    rig.queue({ repository: 'lab/other' });
    const delivery = await eventually('the answer', () =>
      rig.github.webhooks.all.find((one) => one.status !== null),
    );
    assert.equal(delivery.status, 401);
    assert.ok(rig.log.some((line) => line.includes('lab/other is not in the configuration')));
    assert.equal(rig.machines.length, 0);
  });
});
