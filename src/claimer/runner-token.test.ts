import assert from 'node:assert/strict';
import { chmod, mkdtemp, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { type TestContext, test } from 'node:test';
import { RunnerToken } from './runner-token.ts';

async function tokenFile(t: TestContext, text: string): Promise<string> {
  const directory = await mkdtemp(path.join(tmpdir(), 'runner-token-'));
  t.after(() => rm(directory, { recursive: true }));
  const file = path.join(directory, 'token');
  await writeFile(file, text, { mode: 0o600 });
  return file;
}

test('a token is read again when its file was replaced', async (t) => {
  const file = await tokenFile(t, 'glrt-one\n');
  const token = new RunnerToken(file);
  assert.deepEqual(await token.read(), { ok: true, token: 'glrt-one' });
  await writeFile(`${file}.new`, 'glrt-two\n', { mode: 0o600 });
  await rename(`${file}.new`, file);
  assert.deepEqual(await token.read(), { ok: true, token: 'glrt-two' });
});

test('a token whose file is opened to every user, or removed, is used no more', async (t) => {
  const file = await tokenFile(t, 'glrt-one\n');
  const token = new RunnerToken(file);
  assert.equal((await token.read()).ok, true);
  await chmod(file, 0o644);
  assert.match(JSON.stringify(await token.read()), /open to every user/);
  await rm(file);
  assert.match(JSON.stringify(await token.read()), /does not exist/);
});
