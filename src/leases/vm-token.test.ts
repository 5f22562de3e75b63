import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { systemRandomness } from '../lib/random.ts';
import { createVmToken, sameToken, shortToken } from './vm-token.ts';

describe('a VM token', () => {
  for (const [form, token, short] of [
    ['glrt-', 'glrt-abcdefghijklmnop', 'abcdefghi'],
    ['glrt-t1_', 'glrt-t1_abcdefghijklmnop', 'abcdefghi'],
    ['an older one without a prefix', 'abcdefghijklmnopqrst', 'abcdefghi'],
    ['one with the instance prefix', 'acme-glrt-abcdefghijkl', 'abcdefghi'],
    ['a routable one', 'glrt-abc.def.ghi.01', 'abc-def-g'],
    ['a very short one', 'abc', 'abc------'],
  ] as const) {
    it(`begins with glrt- and the real runner's short token: ${form}`, () => {
      assert.equal(shortToken(token), short);
      assert.ok(createVmToken(token, systemRandomness).startsWith(`glrt-${short}`));
    });
  }

  it('is made of characters that need no escaping in a path, and is never the same twice', () => {
    const tokens = Array.from({ length: 100 }, () => createVmToken('glrt-x', systemRandomness));
    assert.equal(new Set(tokens).size, 100);
    for (const token of tokens) assert.match(token, /^[A-Za-z0-9_-]{40,60}$/);
  });

  it('equals only itself', () => {
    assert.ok(sameToken('a', 'a'));
    assert.ok(!sameToken('a', 'ab'));
    assert.ok(!sameToken('', 'a'));
  });
});
