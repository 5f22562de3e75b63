/** What a running host measures, and that documentation, board and alerts speak of just that. */

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { after, before, describe, it, type TestContext, test } from 'node:test';
import { parse } from 'yaml';
import { type Answer, ask } from '../fixtures/testing/ask.ts';
import { eventually } from './support/deadline.ts';
import { type Rig, startRig } from './support/rig.ts';

const ROOT = path.join(import.meta.dirname, '..');
const DEPLOY = path.join(ROOT, 'fixtures/host/deploy');

/** Names of metrics; a histogram's without `_bucket`, `_sum` and `_count`. */
const NAMES = /\b(?:forrest|gitlab_runner)_[a-z_]+\b/g;

interface Exposed {
  readonly text: string;
  readonly types: ReadonlyMap<string, string>;
  readonly labels: ReadonlyMap<string, ReadonlySet<string>>;
  value(name: string, labels?: Readonly<Record<string, string>>): number | undefined;
}

/** A host that has run a job to success and failed one. */
async function runJobs(t: Pick<TestContext, 'after'>): Promise<{ rig: Rig; metrics: Exposed }> {
  const rig = await startRig(t);
  const { job, guest } = await rig.running({ name: 'good' });
  await guest.log('hello');
  await guest.finish('success');
  await guest.powerOff();
  await rig.ended(job);
  const bad = await rig.running({ name: 'bad' });
  await bad.guest.finish('failed', { failure_reason: 'script_failure' });
  await bad.guest.powerOff();
  await rig.ended(bad.job);
  const live = await rig.running({ name: 'live' });
  await live.guest.log('x');
  return { rig, metrics: await scrape(rig) };
}

async function scrape(rig: Rig): Promise<Exposed> {
  const text = (await get(rig, '/metrics')).text;
  const types = new Map(
    [...text.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name = '', type = '']) => [name, type]),
  );
  const samples = [...text.matchAll(/^([a-z_A-Z0-9]+)(?:\{(.*)\})? (\S+)$/gm)].map(
    ([, name = '', inside = '', value = '']) => ({
      name,
      value: Number(value),
      labels: Object.fromEntries(
        [...inside.matchAll(/(\w+)="([^"]*)"/g)].map(([, key = '', label = '']) => [key, label]),
      ) as Record<string, string>,
    }),
  );
  const labels = new Map<string, Set<string>>();
  for (const sample of samples) {
    const known = labels.get(sample.name) ?? new Set();
    for (const key of Object.keys(sample.labels)) known.add(key);
    labels.set(sample.name, known);
  }
  return {
    text,
    types,
    labels,
    value: (name, wanted = {}) =>
      samples.find(
        (sample) =>
          sample.name === name &&
          Object.entries(wanted).every(([key, label]) => sample.labels[key] === label),
      )?.value,
  };
}

const get = (rig: Rig, path: string): Promise<Answer> =>
  ask({ socketPath: rig.host.controlSocket, path });

describe('metrics', () => {
  let metrics: Exposed;
  let rig: Rig;

  const cleanUps: (() => unknown)[] = [];

  before(async () => {
    ({ rig, metrics } = await runJobs({ after: (fn) => cleanUps.push(fn as () => unknown) }));
  });
  after(async () => {
    for (const cleanUp of cleanUps) await cleanUp();
  });

  it('have gitlab-runner’s names and labels where the meaning is the same', async () => {
    const expected: Readonly<Record<string, readonly string[]>> = {
      gitlab_runner_jobs: ['runner', 'system_id', 'state', 'stage', 'executor_stage'],
      gitlab_runner_jobs_total: ['runner', 'system_id'],
      gitlab_runner_failed_jobs_total: ['runner', 'failure_reason'],
      gitlab_runner_job_duration_seconds_count: ['runner', 'system_id'],
      gitlab_runner_job_queue_duration_seconds_count: [
        'runner',
        'system_id',
        'project_jobs_running',
      ],
      gitlab_runner_api_request_statuses_total: ['runner', 'system_id', 'endpoint', 'status'],
      gitlab_runner_api_request_duration_seconds_count: ['runner', 'system_id', 'endpoint'],
      gitlab_runner_limit: ['runner', 'system_id'],
      gitlab_runner_errors_total: ['level'],
    };
    for (const [name, labels] of Object.entries(expected)) {
      assert.deepEqual([...(metrics.labels.get(name) ?? [])].toSorted(), labels.toSorted(), name);
    }
    assert.ok(metrics.labels.get('gitlab_runner_version_info')?.has('version'));
  });

  it('count what has happened', () => {
    const { value } = metrics;
    const runner = { runner: 'build' };
    assert.equal(value('gitlab_runner_jobs_total', runner), 3);
    assert.equal(value('gitlab_runner_jobs', { ...runner, state: 'running' }), 1);
    const failure = { ...runner, failure_reason: 'script_failure' };
    assert.equal(value('gitlab_runner_failed_jobs_total', failure), 1);
    assert.equal(value('gitlab_runner_job_duration_seconds_count', runner), 2);
    assert.equal(value('gitlab_runner_job_queue_duration_seconds_count', runner), 3);
    const created = { endpoint: 'request_job', status: '201' };
    assert.equal(value('gitlab_runner_api_request_statuses_total', created), 3);
    const final = { endpoint: 'update_job', status: '200' };
    assert.ok((value('gitlab_runner_api_request_statuses_total', final) ?? 0) >= 2);
    assert.equal(value('gitlab_runner_limit', runner), 4);
    assert.equal(value('forrest_jobs_ended_total', { forge: 'gitlab', outcome: 'success' }), 1);
    assert.equal(value('forrest_jobs_ended_total', { forge: 'gitlab', outcome: 'failed' }), 1);
    assert.equal(value('forrest_jobs', { forge: 'gitlab' }), 1);
    assert.equal(
      value('forrest_job_stage_seconds_count', { forge: 'gitlab', stage: 'running' }),
      2,
    );
    const off = { forge: 'gitlab', cause: 'powered-off' };
    assert.equal(value('forrest_machines_ended_total', off), 2);
    assert.equal(value('forrest_pool_ram_bytes'), 8 * 1024 ** 3);
    assert.ok((value('forrest_pool_held_bytes', { forge: 'gitlab', kind: 'firm' }) ?? 0) > 0);
    assert.ok((value('forrest_gitlab_proxied_bytes_total', { direction: 'up' }) ?? 0) > 0);
    assert.ok((value('forrest_gitlab_journal_write_seconds_count') ?? 0) > 0);
    assert.equal(value('forrest_gitlab_journal_entries'), 1);
    assert.equal(value('forrest_gitlab_recovered_jobs_total'), 0);
  });

  it('hold no id and no token', () => {
    for (const job of rig.gitlab.jobs()) {
      assert.ok(!metrics.text.includes(job.token));
      assert.ok(!new RegExp(`="${job.id}"`).test(metrics.text));
    }
    assert.ok(!metrics.text.includes(rig.runner.token));
  });

  it('are all in docs/metrics.md, which names no others', async () => {
    const page = await readFile(path.join(ROOT, 'docs/metrics.md'), 'utf8');
    // A name that ends so is a prefix, spoken of as such.
    const documented = new Set(page.match(NAMES)?.filter((name) => !name.endsWith('_')));
    const own = [...metrics.types.keys()].filter((name) => /^(forrest|gitlab_runner)_/.test(name));
    assert.deepEqual([...documented].filter((name) => !own.includes(name)).toSorted(), []);
    assert.deepEqual(own.filter((name) => !documented.has(name)).toSorted(), []);
  });

  it('are what board and alerts ask for, with labels that they have', async () => {
    const board = JSON.parse(
      await readFile(path.join(DEPLOY, 'grafana-dashboard.json'), 'utf8'),
    ) as {
      panels: { title: string; targets?: { expr: string }[] }[];
    };
    const rules = parse(await readFile(path.join(DEPLOY, 'prometheus-alerts.yaml'), 'utf8')) as {
      groups: { rules: { alert: string; expr: string; annotations: { description: string } }[] }[];
    };
    const asked = [
      ...board.panels.flatMap(({ title, targets = [] }) =>
        targets.map(({ expr }) => ({ where: title, expr })),
      ),
      ...rules.groups.flatMap((group) =>
        group.rules.map(({ alert, expr, annotations }) => {
          assert.ok(annotations.description, alert);
          return { where: alert, expr };
        }),
      ),
    ];
    assert.ok(asked.length > 20);
    for (const { where, expr } of asked) {
      const names = [...expr.matchAll(NAMES)].map(([name]) => name);
      assert.ok(names.length > 0, where);
      for (const name of names) {
        const base = name.replace(/_(bucket|sum|count)$/, '');
        const type = metrics.types.get(name) ?? metrics.types.get(base);
        assert.ok(type, `${where}: there is no metric ${name}`);
        assert.equal(type === 'histogram', name !== base, `${where}: ${name} is a ${type}`);
      }
      for (const [, name = '', inside = ''] of expr.matchAll(/([a-z_]+)\{([^}]*)\}/g)) {
        const has = metrics.labels.get(name) ?? new Set();
        for (const [, label = ''] of inside.matchAll(/(\w+)\s*[=!]~?/g)) {
          if (label !== 'job' && label !== 'instance' && has.size > 0)
            assert.ok(has.has(label), `${where}: ${name} has no label ${label}`);
        }
      }
    }
  });
});

test('a host is alive, ready, and says when it takes nothing', async (t) => {
  const rig = await startRig(t);
  assert.equal((await get(rig, '/healthz')).status, 200);
  assert.equal((await get(rig, '/readyz')).status, 200);
  void rig.host.drain();
  await eventually('not ready', async () => (await get(rig, '/readyz')).status === 503);
  assert.equal((await get(rig, '/healthz')).status, 200);
});

test('where nothing runs a runner is idle; a new runner’s jobs begin at 0', async (t) => {
  const rig = await startRig(t);
  const { value } = await scrape(rig);
  assert.equal(value('gitlab_runner_jobs', { runner: 'build', state: 'idle' }), 0);
});

test('jobs that failed where GitLab heard of it later, or not by their runner, count with their reason', async (t) => {
  const timings = { probeMs: 20, probeCapMs: 50, jobGraceMs: 1 };
  const rig = await startRig(t, { timings });
  const held = await rig.running();
  await rig.gitlab.takeDown();
  const words = { failure_reason: 'script_failure', output: { bytesize: 0 } };
  assert.equal((await held.guest.finish('failed', words)).status, 200);
  await held.guest.powerOff();
  await rig.gitlab.bringBack();
  await rig.ended(held.job);
  const late = await rig.running({ timeoutSeconds: 1 });
  await rig.ended(late.job);
  const { value } = await scrape(rig);
  const failed = (failure_reason: string) =>
    value('gitlab_runner_failed_jobs_total', { runner: 'build', failure_reason });
  assert.equal(failed('script_failure'), 1);
  assert.equal(failed('job_execution_timeout'), 1);
  assert.equal(failed('runner_system_failure'), undefined);
});
