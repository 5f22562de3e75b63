/** A GitHub job whose host is killed: same runner, same machine, and an end as its steps have it. */

import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { test } from 'node:test';
import { startGithubSimulator } from '../fixtures/github/index.ts';
import type { HostStatus } from '../fixtures/host/src/index.ts';
import { getJson } from '../fixtures/host/src/testing/get-json.ts';
import { runHost } from '../fixtures/host/src/testing/host-command.ts';
import { eventually } from './support/deadline.ts';
import { temporaryDirectory, writePrivate } from './support/files.ts';

const GUEST = path.join(import.meta.dirname, '../fixtures/guest');
const LIMIT_MS = 40_000;

test('a GitHub job goes on through two kills of its host', async (t) => {
  const directory = await temporaryDirectory(t);
  const github = await startGithubSimulator();
  t.after(() => github.close());
  github.createRepository('lab/demo');
  const config = {
    host: { base_dir: 'base', ram: '2G', driver: 'process', guest_api: 'off' },
    github: {
      app_id: github.app.id,
      jwt_key_file: await writePrivate(path.join(directory, 'app.pem'), github.app.privateKey),
      webhook_secret: 'a-secret-for-webhooks',
      base_url: github.url,
      timings: { writeGapMs: 1, collectMs: 50, watchMs: 200 },
    },
    repositories: {
      lab: {
        demo: {
          machines: {
            small: {
              setup_template: {
                path: path.join(GUEST, 'templates/github-shell'),
                parameters: {
                  GITHUB_RUNNER: path.join(GUEST, 'github-runner/run.sh'),
                  BOOT_GATE: '',
                },
              },
              cpus: 1,
              ram: '1G',
              disk: '1G',
            },
          },
        },
      },
    },
  };
  const file = await writePrivate(path.join(directory, 'config.yaml'), JSON.stringify(config));
  github.setWebhook({
    url: `unix:${directory}/base/api.sock:/webhook`,
    secret: 'a-secret-for-webhooks',
  });
  const job = github.queueJob({
    repository: 'lab/demo',
    name: 'job',
    labels: ['self-hosted', 'forrest', 'small'],
    steps: [`echo begun; until [ -e ${directory}/go ]; do sleep 0.1; done; echo ended`],
  });
  const host = runHost(t, file);
  const status = (): Promise<HostStatus | undefined> =>
    getJson<HostStatus>(`${directory}/base/control.sock`, '/status').catch(() => undefined);
  const pid = async (): Promise<number> =>
    Number(await readFile(`${directory}/base/state/lock`, 'utf8').catch(() => ''));
  const busy = async (other = 0): Promise<HostStatus | undefined> => {
    const now = await status();
    const row = now?.providers
      .flatMap((one) => one.status.jobs)
      .find((one) => one.state === 'running');
    return now?.machines[0]?.state === 'running' &&
      row?.id === String(job.id) &&
      (await pid()) !== other
      ? now
      : undefined;
  };
  await eventually('the job to print', () => job.log.includes('begun'), LIMIT_MS);
  const before = await eventually('its row', () => busy(), LIMIT_MS);
  // What is shown may not be written yet, and would be another moment's after the kill.
  const record = `${directory}/base/state/host/machines/${before.machines[0]?.runnerName}.json`;
  await eventually('its record', async () => {
    const text = await readFile(record, 'utf8');
    return (JSON.parse(text) as { state: string }).state === 'running';
  });
  for (const _ of ['first', 'second']) {
    const killed = await pid();
    process.kill(killed, 'SIGKILL');
    const after = await eventually('its row again', () => busy(killed), LIMIT_MS);
    assert.deepEqual(after.machines, before.machines);
    assert.equal(github.runners().length, 1);
  }
  await writeFile(path.join(directory, 'go'), '');
  const ended = await eventually(
    'its end on the host',
    async () => {
      const now = await status();
      return now?.machines.length === 0 && now.history.length > 0 ? now : undefined;
    },
    LIMIT_MS,
  );
  assert.equal(job.conclusion, 'success', job.log.toString());
  assert.equal(job.log.toString(), 'begun\nended\n');
  assert.deepEqual(
    ended.history.map(({ id, outcome, machine }) => [id, outcome, machine]),
    [[String(job.id), 'success', before.machines[0]?.runnerName]],
  );
  await eventually('no runner to be left', () => github.runners().length === 0, LIMIT_MS);
  assert.match(host.stderr(), /the machine ended: it powered off/);
  host.kill('SIGTERM');
  assert.equal((await host.exited).code, 0);
});
