import assert from 'node:assert/strict';
import { test } from 'node:test';
import { parseStrictObject } from './json.ts';

const parse = (text: string): unknown => parseStrictObject(Buffer.from(text));

test('an object in which nothing is named twice', () => {
  const text = String.raw`{"a": {"b": [{"b": ":"}, {"b": "\\\":{["}], "a": -1e400}, "": null, "__proto__": {"toJSON": 1}}`;
  assert.deepEqual(parse(text), JSON.parse(text));
  assert.deepEqual(parse(' {} '), {});
});

for (const [what, text] of [
  ['a name twice', '{"a":1,"b":2,"a":1}'],
  ['a name twice, deep inside', '{"a":[{"b":{"c":1,"c":{}}}]}'],
  ['a name twice, once of them escaped', String.raw`{"a":1,"\u0061":1}`],
  ['__proto__ twice', '{"__proto__":1,"__proto__":{"a":2}}'],
  ['an array’s index twice', '{"0":1,"0":2}'],
  ['more levels than anything sends', `{"a":${'['.repeat(50)}${']'.repeat(50)}}`],
  ['thousands of levels', `{"a":${'{"a":'.repeat(5000)}1${'}'.repeat(5000)}}`],
  ['more values than anything sends', `{"a":[${'0,'.repeat(1000)}0]}`],
  [
    'more names than anything sends',
    JSON.stringify(Object.fromEntries(Array.from('x'.repeat(2000), (x, at) => [x + at, 0]))),
  ],
  ['no end', '{"a":{'],
  ['a string without an end', '{"a":"\\'],
  ['no object', '[]'],
  ['null', 'null'],
  ['another job’s id', '{"id":1}'],
] as const) {
  test(`${what}: none`, () => assert.equal(parse(text), undefined));
}
