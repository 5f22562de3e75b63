/** A changed configuration, a drain or a stop that comes while a runner is in the middle of something. */

import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { suite, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Seams } from 'forrest-gitlab';
import { ask } from '../fixtures/testing/ask.ts';
import { eventually, within } from './support/deadline.ts';
import { writePrivate } from './support/files.ts';
import { freePort } from './support/free-port.ts';
import { createRig, journalOf, type Rig, startRig } from './support/rig.ts';
import { readyMachine, runnerRow, startWarm } from './support/warm.ts';

interface Config {
  machines: Record<string, Record<string, unknown>>;
  gitlab: { runners: [Record<string, unknown>] };
}

async function edit(rig: Rig, change: (config: Config) => void): Promise<void> {
  const file = path.join(rig.directory, 'config.yaml');
  const config = JSON.parse(await readFile(file, 'utf8')) as Config;
  change(config);
  await writeFile(file, JSON.stringify(config));
}

async function reload(rig: Rig, change: (config: Config) => void): Promise<void> {
  await edit(rig, change);
  await rig.host.reload();
}

/** More keys of the one runner. */
const set =
  (keys: Readonly<Record<string, unknown>>) =>
  ({ gitlab }: Config): void =>
    void Object.assign(gitlab.runners[0], keys);

/** The same token under another name: the runner `build` is gone. */
const rename = set({ name: 'renamed' });

/** Whoever comes to that checkpoint for the given time waits there until it is let go on. */
function holdAt(name: Parameters<NonNullable<Seams['checkpoint']>>[0], time = 1) {
  const come = Promise.withResolvers<void>();
  const going = Promise.withResolvers<void>();
  let left = time;
  const seams: Seams = {
    async checkpoint(at) {
      if (at !== name || --left !== 0) return;
      come.resolve();
      await going.promise;
    },
  };
  return { seams, come: within(name, come.promise), go: going.resolve };
}

const asks = (rig: Rig) => rig.gitlab.requests.filter(({ route }) => route === 'jobs-request');

suite('a runner that a reload removes', { concurrency: 4 }, () => {
  test('while its job is being claimed: the job runs with the settings that it had', async (t) => {
    const claim = holdAt('claim-received');
    const rig = await startRig(t, { seams: claim.seams });
    const job = rig.queue();
    await claim.come;
    await reload(rig, rename);
    claim.go();
    const guest = await rig.guest(job);
    await guest.takeJob();
    await guest.finish('success');
    await guest.powerOff();
    assert.equal((await rig.ended(job)).outcome, 'success');
  });

  test('while its job is being claimed, and a stop right after: waits until the job is written down', async (t) => {
    const claim = holdAt('claim-received');
    const listen = `127.0.0.1:${await freePort()}`;
    const rig = await startRig(t, { seams: claim.seams, section: { listen } });
    const job = rig.queue();
    await claim.come;
    await reload(rig, rename);
    const stopped = rig.host.stop('leave');
    // One that does not wait for the claim is over by then.
    await sleep(200);
    claim.go();
    await stopped;
    assert.equal((await journalOf(rig)).length, 1);
    await rig.start();
    const guest = await rig.guest(job);
    await guest.takeJob();
    await guest.finish('success');
    await guest.powerOff();
    assert.equal((await rig.ended(job)).outcome, 'success');
  });

  test('while room has been had for a second boot: the job fails, and the room is free again', async (t) => {
    const second = holdAt('lease-claimed', 2);
    const rig = await startRig(t, { seams: second.seams });
    const job = rig.queue();
    (await rig.guest(job)).kill();
    await second.come;
    await reload(rig, rename);
    const before = asks(rig).length;
    await eventually('asks under the other name alone', () => asks(rig).length >= before + 2);
    second.go();
    assert.match((await rig.ended(job)).reason ?? '', /no runner build is configured/);
    await eventually('no room to be held', () =>
      rig.status().pool.held.every(({ firmBytes }) => firmBytes === 0),
    );
  });
});

suite('a runner that a reload changes', { concurrency: 4 }, () => {
  test('waits for no room for the machine that it had', async (t) => {
    const rig = await createRig(t);
    await edit(rig, (config) => {
      config.machines['large'] = { ...config.machines['small'], ram: '6G' };
      set({ machine: 'large' })(config);
    });
    const [first, second] = [rig.queue(), rig.queue()];
    await rig.start();
    await rig.guest(first);
    await eventually('no room', () => /needs 6 GiB/.test(runnerRow(rig).notClaiming ?? ''));
    await reload(rig, set({ machine: 'small' }));
    await rig.guest(second);
  });

  test('tells GitLab nothing of what its guests could do with another executor', async (t) => {
    const rig = await startRig(t);
    const guest = await rig.guest(rig.queue());
    const info = { executor: 'shell', features: { vault_secrets: false, image: false } };
    const json = { token: guest.token, info };
    assert.equal((await guest.call('POST', 'jobs/request', { json })).status, 201);
    const told = () => JSON.parse(asks(rig).at(-1)?.body.toString() ?? '').info;
    await eventually('what the guest told', () => told().features.vault_secrets === false);
    await reload(rig, set({ executor: 'docker', docker_image: 'debian:12' }));
    await eventually('the other executor', () => told().executor === 'docker');
    assert.deepEqual([told().features.image, told().features.vault_secrets], [true, true]);
  });

  test('reads another token file at once, also while its token is refused', async (t) => {
    const rig = await createRig(t);
    await writePrivate(path.join(rig.directory, 'runner-0.token'), 'glrt-nobody');
    await rig.start();
    await eventually('the refusal', () => runnerRow(rig).health === 'unhealthy');
    const file = path.join(rig.directory, 'other.token');
    await writePrivate(file, rig.runner.token);
    await reload(rig, set({ token_file: file }));
    await rig.guest(rig.queue());
  });
});

suite('a reload of what needs a restart', () => {
  test('says so by the names of the keys, and leaves that as it is', async (t) => {
    const rig = await startRig(t);
    const changed = {
      url: 'http://127.0.0.1:9',
      listen: `127.0.0.1:${await freePort()}`,
      ca_file: path.join(import.meta.dirname, 'support/tls/ca.pem'),
      timings: { heartbeatMs: 1234 },
    };
    await reload(rig, ({ gitlab }) => void Object.assign(gitlab, changed));
    for (const key of Object.keys(changed)) {
      const said = `gitlab.${key} has changed: restart the host for it to take effect`;
      assert.ok(
        rig.log.some((line) => line.includes(said)),
        key,
      );
    }
    await rig.guest(rig.queue());
  });
});

suite('a reload without console_tail', () => {
  test('keeps the console out of the logs of all jobs from then on', async (t) => {
    const rig = await startRig(t, { script: 'echo kernel panic' });
    await reload(rig, ({ gitlab }) => void Object.assign(gitlab, { console_tail: false }));
    const { job, guest } = await rig.running();
    guest.kill();
    await rig.ended(job);
    assert.match(job.log.toString(), /ERROR/);
    assert.doesNotMatch(job.log.toString(), /kernel panic/);
  });
});

suite('a drain that comes just before an ask', () => {
  test('lets it not happen', async (t) => {
    const pinned = holdAt('warm-pinned');
    const rig = await startWarm(t, { seams: pinned.seams });
    await readyMachine(rig);
    await pinned.come;
    const job = rig.queue();
    const before = asks(rig).length;
    const drained = rig.host.drain();
    pinned.go();
    await within('the drain', drained);
    assert.equal(asks(rig).length, before);
    assert.equal(job.status, 'pending');
  });
});

suite('pauses that are asked for at once', () => {
  test('of several runners and of the host all count, over a restart, too', async (t) => {
    const names = ['build', 'one', 'two', 'three'];
    const moreRunners = names.slice(1).map((name) => ({ name }));
    const rig = await startRig(t, { moreRunners });
    const pause = async (target: object): Promise<void> => {
      const { controlSocket: socketPath } = rig.host;
      const wish = JSON.stringify({ ...target, paused: true });
      const { status, text } = await ask({ socketPath, path: '/pause', method: 'POST' }, wish);
      assert.ok(status < 300, text);
    };
    const wishes = names.map((runner) => ({ provider: 'gitlab', runner }));
    await Promise.all([...wishes, {}, {}].map(pause));
    const paused = (): string[] => names.filter((name) => runnerRow(rig, name).paused);
    assert.deepEqual([paused(), rig.status().host.paused], [names, true]);
    await rig.host.stop('leave');
    await rig.start();
    assert.deepEqual([paused(), rig.status().host.paused], [names, true]);
  });
});
