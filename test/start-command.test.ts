/** `npm start`, the command: what it says where it does not get far. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, it } from 'node:test';
import { temporaryDirectory } from './support/files.ts';

const CLI = path.join(import.meta.dirname, '../fixtures/main-job/cli.ts');

describe('npm start', () => {
  for (const [what, script, says] of [
    [
      'refuses what is no gitlab-runner',
      'echo true 9.1',
      /^GITLAB_RUNNER=\S+: is no gitlab-runner: its --version names none\n$/,
    ],
    // It ends by the same Ctrl-C, which is no fault of it.
    [
      'says that it was interrupted, and nothing else',
      'kill -INT $PPID; exit 1',
      /^interrupted\n$/,
    ],
  ] as const) {
    it(what, async (t) => {
      const runner = path.join(await temporaryDirectory(t), 'runner');
      await writeFile(runner, `#!/bin/sh\n${script}\n`, { mode: 0o755 });
      const { code, said } = await start(runner);
      assert.match(said, says);
      assert.equal(code, 1);
    });
  }
});

function start(runner: string): Promise<{ code: unknown; said: string }> {
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      ['--conditions=forrest-gitlab-source', CLI],
      { env: { ...process.env, GITLAB_RUNNER: runner }, timeout: 30_000 },
      (error, _stdout, said) => resolve({ code: error?.code ?? 0, said }),
    );
  });
}
