/** The schemas for editors: made from what reads the configuration, and telling the same. */

import assert from 'node:assert/strict';
import path from 'node:path';
import { test } from 'node:test';
import { createPlugin } from 'forrest-gitlab';
import { toJsonSchema } from '../fixtures/host/src/lib/json-schema.ts';
import { Section } from '../src/config/schema.ts';

const FILE = path.join(import.meta.dirname, '../src/config/section.schema.json');

/** `--test-update-snapshots` writes it anew. */
test('the plugin’s schema is what its parser reads', (t) => {
  t.assert.fileSnapshot(toJsonSchema(Section), FILE, {
    serializers: [(value: unknown) => `${JSON.stringify(value, null, 2)}\n`],
  });
  const schema = createPlugin().configSchema as Record<string, Record<string, object>>;
  assert.deepEqual(schema, JSON.parse(JSON.stringify(toJsonSchema(Section))));
  assert.ok('description' in (schema['properties']?.['url'] ?? {}));
});
