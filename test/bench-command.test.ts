/** The benchmark command: what it prints where, and how it exits. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { describe, it } from 'node:test';
import { identityOf, isAlive } from '../fixtures/host/src/drivers/proc.ts';
import { type Bench, type BenchReport, quantile } from './bench/bench.ts';
import { type BenchTable, runBench } from './bench/run-bench.ts';
import { eventually, within } from './support/deadline.ts';

const report = (met: boolean): BenchReport => ({
  peer: 'a list',
  figures: [
    { what: 'lookup', unit: 'µs', ours: 1.25, peer: 2500, direct: 1 },
    { what: 'alone', unit: '/s', ours: 7, peer: null },
  ],
  goals: [
    { what: 'below 5 µs', measured: '1.25 µs', met },
    { what: 'beside another', measured: 'there is none', met: null },
  ],
});

const bench = (run: Bench['run']) => async () => ({ bench: { summary: 'a summary', run } });

const benches: BenchTable = {
  good: bench(async (progress) => {
    progress('half way');
    return report(true);
  }),
  slow: bench(async () => report(false)),
  broken: bench(() => Promise.reject(new Error('no peer'))),
  absent: () => Promise.reject(new Error('a missing package')),
};

const LIMIT_MS = 20_000;

/** As a host starts machines: in a session of their own, by a process between. Says where and who. */
const STARTS_MACHINES = `
  import { spawn } from 'node:child_process';
  import { tmpdir } from 'node:os';
  import { endAllWhenInterrupted } from '${import.meta.dirname}/bench/interrupt.ts';
  endAllWhenInterrupted();
  console.log(tmpdir());
  spawn('sh', ['-c', 'setsid sleep 1000 & echo $!; wait'], { stdio: ['ignore', 'inherit', 'inherit'] });
`;

async function command(...args: string[]) {
  let out = '';
  let error = '';
  const code = await runBench(args, benches, {
    out: (text) => (out += text),
    error: (text) => (error += text),
  });
  return { code, out, error };
}

describe('npm run bench', () => {
  it('prints figures beside the peer’s, and goals', async () => {
    const { code, out, error } = await command('good');
    assert.equal(code, 0);
    assert.match(out, /lookup +1\.25 +2,500 +0\.0005 +1 +µs\n/);
    assert.match(out, /alone +7 +- +- +- +\/s\n/);
    assert.match(out, /^met +below 5 µs: 1\.25 µs$/m);
    assert.match(out, /^not measured +beside another: there is none$/m);
    assert.equal(error, 'half way\n');
  });

  it('prints one JSON object and nothing else', async () => {
    const { code, out, error } = await command('slow', '--json');
    assert.equal(code, 1, 'a goal is missed');
    const { figures, ...rest } = report(false);
    const ratios = [0.0005, null];
    assert.deepEqual(JSON.parse(out), {
      bench: 'slow',
      met: false,
      ...rest,
      figures: figures.map((figure, index) => ({ ...figure, ratio: ratios[index] })),
    });
    assert.equal(error, '');
    assert.equal((await command('good', '--json')).error, '');
  });

  it('fails where a benchmark fails', async () => {
    assert.deepEqual(await command('broken', '--json'), {
      code: 1,
      out: '',
      error: 'the benchmark broken failed: no peer\n',
    });
  });

  it('says what there is', async () => {
    const { code, out } = await command('--help');
    assert.equal(code, 0);
    assert.match(out, /good +a summary\n/);
    assert.match(out, /absent +cannot be loaded: a missing package\n/);
  });

  it('refuses wrong use', async () => {
    for (const args of [[], ['none'], ['toString'], ['good', 'slow'], ['good', '--fast']]) {
      const { code, out, error } = await command(...args);
      assert.equal(code, 2, args.join(' '));
      assert.equal(out, '');
      assert.match(error, /--help says more/);
    }
  });

  it('ends what it has started, and removes its files, when interrupted', async () => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      const bench = spawn(process.execPath, ['--input-type=module', '--eval', STARTS_MACHINES]);
      const lines = createInterface({ input: bench.stdout })[Symbol.asyncIterator]();
      const next = async () => (await within('a line', lines.next(), LIMIT_MS)).value as string;
      const directory = await next();
      const machine = identityOf(Number(await next()));
      assert.ok(isAlive(machine) && existsSync(directory));
      bench.kill(signal);
      const [, by] = await within('its end', once(bench, 'exit'), LIMIT_MS);
      assert.equal(by, signal);
      await eventually('the end of its machine', () => !isAlive(machine), LIMIT_MS);
      assert.ok(!existsSync(directory));
    }
  });

  it('takes quantiles', () => {
    const samples = Array.from({ length: 100 }, (_, index) => 99 - index);
    assert.equal(quantile(samples, 0.5), 50);
    assert.equal(quantile(samples, 0.99), 99);
    assert.throws(() => quantile([], 0.5), /no samples/);
  });
});
