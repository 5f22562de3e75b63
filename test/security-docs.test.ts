/** Each statement of docs/security.md names a test that exists. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';

const root = path.join(import.meta.dirname, '..');
const page = readFileSync(path.join(root, 'docs/security.md'), 'utf8');

test('the tests that docs/security.md names exist', () => {
  const named = [...page.matchAll(/\[((?:test|fixtures)\/[\w./-]+\.test\.ts): ([^\]]+)\]/g)];
  assert.ok(named.length > 20, `${named.length} tests are named`);
  for (const [, file = '', name = ''] of named) {
    const source = readFileSync(path.join(root, file), 'utf8');
    const isThere = ['test', 'it'].some((call) => source.includes(`${call}('${name}'`));
    assert.ok(isThere, `${file} has no test '${name}'`);
  }
});

test('what a machine can and cannot do is said with a test each', () => {
  const lists = page.split('## What it cannot do')[1]?.split('\n## ')[0] ?? '';
  const statements =
    `${page.split('## What a hostile machine can do')[1]?.split('\n## ')[0]}${lists}`
      .split(/^- /m)
      .slice(1);
  assert.ok(statements.length > 15);
  for (const statement of statements) {
    assert.match(
      statement,
      /\[(?:test|fixtures)\//,
      `no test is named for: ${statement.split('\n')[0]}`,
    );
  }
});
