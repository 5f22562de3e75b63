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

  const noteOf = (console: string): string =>
    composeNote({
      reason: 'gone',
      runnerName: 'm',
      console: Buffer.from(console),
      secrets,
      now: 0,
    });

  it('show no part of a secret in which a full console begins', () => {
    const rest = `${'x'.repeat(70)}\n`.repeat(1000);
    const full = `r2-hunter2 the end of a secret\n${rest}`.slice(0, 64 * 1024);
    assert.doesNotMatch(noteOf(full), /r2-hunter2/);
    assert.match(noteOf('r2-hunter2 is no secret here\n'), /r2-hunter2/);
    assert.match(noteOf('a'.repeat(64 * 1024)), /section_start/);
  });

  it('mask before they cut: a secret may lie across the cut', () => {
    const line = 'password=hunter2-hunter2 ';
    for (let shift = 0; shift < line.length; shift += 1) {
      const note = noteOf(`${'y'.repeat(shift)}\n${line.repeat(1000)}`);
      assert.doesNotMatch(note, /unter2/);
    }
  });

  it('mask a value of several lines as a serial console shows it', () => {
    assert.doesNotMatch(noteOf('two\r\nlines-of-key\r\n'), /lines-of-key/);
  });

  it('say why there is no console where nobody knows what to mask', () => {
    const note = composeNote({
      reason: 'gone',
      runnerName: 'm',
      console: Buffer.from('secret'),
      secrets: null,
      now: 0,
    });
    assert.match(note, /console of m is not shown: after the host's restart/);
  });
});
