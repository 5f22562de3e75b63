/** The repository's own commands: wrong use is exit code 2 and names --help, which works. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, it } from 'node:test';

const ROOT = path.join(import.meta.dirname, '..');
const { scripts } = JSON.parse(readFileSync(path.join(ROOT, 'package.json'), 'utf8')) as {
  scripts: Record<string, string>;
};

/** By their scripts; wrong in a value where one has a form of its own. */
const WRONG: Readonly<Record<string, readonly string[]>> = {
  start: ['--jobs', 'many'],
  'guest:micro': ['runner'],
  'guest:debian': ['--size', '8'],
  'guest:images': [],
  'gitlab-sim': ['--port', 'none'],
  'github-sim': ['--port', '65536'],
  chaos: ['--rounds', '0'],
  fuzz: ['--seconds', 'few'],
  bench: ['nothing'],
};

describe('wrong use of', { concurrency: 2 }, () => {
  for (const [script, wrong] of Object.entries(WRONG)) {
    const command = script === 'start' ? 'npm start' : `npm run ${script}`;
    it(command, async () => {
      for (const args of [wrong, ['--nonsense']]) {
        const { code, out, err } = await run(script, args);
        assert.equal(code, 2, err);
        assert.equal(out, '');
        assert.match(err, new RegExp(`^.+\n[\\s\\S]*${command} -- --help says more\\.\n$`));
        assert.doesNotMatch(err, /^ +at /m);
      }
      const help = await run(script, ['--help']);
      assert.equal(help.code, 0);
      assert.ok(help.out.startsWith(`${command} -- `), help.out);
    });
  }
});

function run(
  script: string,
  args: readonly string[],
): Promise<{ code: unknown; out: string; err: string }> {
  const [, ...own] = scripts[script]?.split(' ') ?? [];
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      [...own, ...args],
      { cwd: ROOT, timeout: 30_000 },
      (error, out, err) => resolve({ code: error?.code ?? 0, out, err }),
    );
  });
}
