/** The search for secrets in the logs of a test run, with one planted. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import path from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';

const SCAN = path.join(import.meta.dirname, 'log-scan/cli.ts');
const RECORD = path.join(import.meta.dirname, '../fixtures/testing/record.ts');

/** As a run would be whose tests do just that. */
async function scanOf(code: string): Promise<{ code: number; said: string }> {
  const script = `import { recordLog, recordSecret } from ${JSON.stringify(RECORD)};\n${code}`;
  const args = [SCAN, process.execPath, '--input-type=module-typescript', '-e', script];
  try {
    const { stdout, stderr } = await promisify(execFile)(process.execPath, args);
    return { code: 0, said: stdout + stderr };
  } catch (error) {
    const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
    return { code, said: stdout + stderr };
  }
}

const SECRET = "recordSecret('glrt-0123456789abcdefghij');";

test('a secret in a log fails the run, and is not repeated', async () => {
  const { code, said } = await scanOf(
    `${SECRET} recordLog('{"token":"xglrt-0123456789abcdefghijx"}');`,
  );
  assert.equal(code, 1);
  assert.match(said, /secret in \d+\.log: \{"token":"x\[glrt…: a secret\]x"\}/);
  assert.match(said, /1 leaks of 1 secrets in/);
});

test('clean logs pass, and a run that failed stays failed', async () => {
  const clean = await scanOf(`${SECRET} recordLog('the token is [***]');`);
  assert.equal(clean.code, 0);
  assert.match(clean.said, /0 leaks of 1 secrets in/);
  assert.equal((await scanOf(`${SECRET} recordLog('x'); process.exitCode = 3;`)).code, 3);
});

test('a run that recorded nothing has shown nothing', async () => {
  assert.equal((await scanOf('')).code, 1);
});
