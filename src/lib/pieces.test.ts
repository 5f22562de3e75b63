import assert from 'node:assert/strict';
import { randomBytes, randomInt } from 'node:crypto';
import { it } from 'node:test';
import { Pieces } from './pieces.ts';

it('gives back the bytes of all pieces in their order, again and again', () => {
  const pieces = new Pieces();
  for (let round = 0; round < 50; round += 1) {
    const added = Array.from({ length: randomInt(200) }, () =>
      randomBytes([0, 1, 3, 1023, 1024, 4096, 9000][randomInt(7)] ?? 0),
    );
    for (const piece of added) pieces.add(piece);
    const whole = Buffer.concat(added);
    assert.equal(pieces.length, whole.length);
    assert.deepEqual(pieces.take(), whole);
    assert.equal(pieces.length, 0);
  }
});

it('copies small pieces: what they are cut from is not kept', () => {
  const pieces = new Pieces();
  const source = Buffer.from('abc');
  pieces.add(source);
  source.fill('x');
  assert.equal(pieces.take().toString(), 'abc');
});
