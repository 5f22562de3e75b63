/** Looks for secrets in the logs that a test run has recorded. */

import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { LOG, SECRETS } from '../../fixtures/testing/record.ts';

export interface Leak {
  /** The log file, and the line in it, the secret blotted out. */
  readonly file: string;
  readonly line: string;
}

export interface Scan {
  readonly secrets: number;
  readonly lines: number;
  readonly leaks: readonly Leak[];
}

/** So many characters of a secret are looked up first: most places in a log are done with by that. */
const KEY_LENGTH = 8;

export async function scan(directory: string): Promise<Scan> {
  const files = await readdir(directory);
  const secrets = new Map<string, Set<string>>();
  let count = 0;
  for (const file of files.filter((name) => name.endsWith(SECRETS))) {
    const text = await readFile(path.join(directory, file), 'utf8');
    for (const line of text.split('\n').filter((line) => line !== '')) {
      const secret = JSON.parse(line) as string;
      const key = secret.slice(0, KEY_LENGTH);
      const alike = secrets.get(key) ?? new Set();
      if (!alike.has(secret)) count += 1;
      secrets.set(key, alike.add(secret));
    }
  }
  let lines = 0;
  const leaks: Leak[] = [];
  for (const file of files.filter((name) => name.endsWith(LOG))) {
    const text = await readFile(path.join(directory, file), 'utf8');
    for (const line of text.split('\n')) {
      lines += 1;
      const secret = findSecret(line, secrets);
      if (secret === undefined) continue;
      const start = secret.slice(0, 4);
      leaks.push({ file, line: line.replaceAll(secret, `[${start}…: a secret]`).slice(0, 500) });
    }
  }
  return { secrets: count, lines, leaks };
}

function findSecret(
  line: string,
  secrets: ReadonlyMap<string, ReadonlySet<string>>,
): string | undefined {
  for (let at = 0; at + KEY_LENGTH <= line.length; at++) {
    for (const secret of secrets.get(line.slice(at, at + KEY_LENGTH)) ?? []) {
      if (line.startsWith(secret, at)) return secret;
    }
  }
  return undefined;
}
