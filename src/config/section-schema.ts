/** JSON Schema of the section, for editors: made from `schema.ts`, as test/config-schema.test.ts checks. */

import type { JsonValue } from '../contract/index.ts';
import schema from './section.schema.json' with { type: 'json' };

export const sectionSchema: JsonValue = schema;
