/** Runs a command, such as all tests, and then looks through what its hosts and jobs have logged for secrets. */

import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { scan } from './scan.ts';

const directory = await mkdtemp(path.join(tmpdir(), 'forrest-record-'));
try {
  const [command = '', ...args] = process.argv.slice(2);
  const child = spawn(command, args, {
    stdio: 'inherit',
    env: { ...process.env, FORREST_TEST_RECORD: directory },
  });
  // A terminal's Ctrl-C reaches the child, too: what it leaves is to be removed.
  process.on('SIGINT', () => undefined);
  const code = await new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (exit, signal) => resolve(signal === null ? (exit ?? 1) : 1));
  });
  const { secrets, lines, leaks } = await scan(directory);
  for (const { file, line } of leaks.slice(0, 20)) console.error(`secret in ${file}: ${line}`);
  if (secrets === 0 || lines === 0)
    console.error('log scan: nothing was recorded, so nothing was looked at');
  else
    console.log(
      `log scan: ${leaks.length} leaks of ${secrets} secrets in ${lines} lines of hosts' and jobs' logs`,
    );
  process.exitCode = code === 0 && (leaks.length > 0 || secrets === 0 || lines === 0) ? 1 : code;
} finally {
  await rm(directory, { recursive: true, force: true });
}
