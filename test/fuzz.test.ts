/** Ten seconds of the fuzz run; `npm run fuzz` makes longer ones. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import type { FuzzReport } from './fuzz/fuzz.ts';

const cli = path.join(import.meta.dirname, 'fuzz/cli.ts');

interface Ran {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

async function run(...args: string[]): Promise<Ran> {
  const command = promisify(execFile)(process.execPath, [
    '--conditions=forrest-gitlab-source',
    cli,
    ...args,
  ]);
  return await command.then(
    (ran) => ({ ...ran, code: 0 }),
    (error: Ran) => error,
  );
}

test('ten seconds of raw bytes and mutated calls: no crash, no leak, nothing upstream outside the lease', {
  timeout: 180_000,
}, async () => {
  const { code, stdout, stderr } = await run('--seed', '7', '--seconds', '10', '--json');
  const report = JSON.parse(stdout) as FuzzReport & { again: string };
  assert.deepEqual(report.violations, [], report.again);
  assert.equal(code, 0);
  assert.equal(stderr, '', 'nobody prints anything');
  assert.ok(report.cases > 500, `${report.cases} cases`);
  assert.ok(report.upstream > 20, 'some of it is right, and gets through');
  assert.match(report.again, /--seed 7 --seconds 10$/);
});
