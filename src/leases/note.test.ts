import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { composeNote, maskSecrets } from './note.ts';

const secrets = { values: ['hunter2-hunter2', 'short', 'two\nlines-of-key'], prefixes: ['acme-'] };

describe('our last words in a log', () => {
  it('mask every masked value, also one that spans lines', () => {
    assert.equal(maskSecrets('a hunter2-hunter2 b', secrets), 'a [MASKED] b');
    assert.equal(maskSecrets('two\nlines-of-key', secrets), '[MASKED]');
    assert.equal(maskSecrets('only lines-of-key here', secrets), 'only [MASKED] here');
  });

  it('mask every word that begins like a token, by GitLab and by the instance', () => {
    assert.equal(maskSecrets('x glrt-abcDEF_1.2 y', secrets), 'x glrt-[MASKED] y');
    assert.equal(maskSecrets('acme-secretthing', secrets), 'acme-[MASKED]');
  });

  it('leave a value alone that is too short to be a secret', () => {
    assert.equal(maskSecrets('short', secrets), 'short');
  });

  it('hold the reason and the console in a collapsed section', () => {
    const note = composeNote({
      reason: 'the machine ended',
      runnerName: 'forrest-build-1',
      console: Buffer.from('panic: hunter2-hunter2\n'),
      secrets,
      now: 5000,
    });
    assert.match(note, /ERROR: the machine ended/);
    assert.match(note, /section_start:5:machine_console\[collapsed=true\]\r/);
    assert.match(note, /panic: \[MASKED\]\n/);
    assert.match(note, /section_end:5:machine_console\r/);
  });

  it('leave the console out where nobody knows what to mask', () => {
    const note = composeNote({
      reason: 'gone',
      runnerName: 'm',
      console: Buffer.from('secret'),
      secrets: null,
      now: 0,
    });
    assert.doesNotMatch(note, /secret/);
  });
});
