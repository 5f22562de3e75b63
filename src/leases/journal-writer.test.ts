import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, it } from 'node:test';
import { eventually } from '../../test/support/deadline.ts';
import { createTestLog } from '../../test/support/github-rig.ts';
import { DEFAULT_TIMINGS } from '../config/index.ts';
import { systemClock } from '../lib/clock.ts';
import { createFileJournal } from './journal.ts';
import { JournalWriter } from './journal-writer.ts';
import type { LeaseRecord } from './record.ts';

const isLimitable =
  process.platform === 'linux' && spawnSync('prlimit', ['--version']).status === 0;

describe('jobs that are claimed at once', () => {
  it('share the spare that one of them has used up', async (t) => {
    const directory = mkdtempSync(path.join(tmpdir(), 'forrest-journal-'));
    t.after(() => rmSync(directory, { recursive: true, force: true }));
    const log = createTestLog([]);
    const writer = new JournalWriter(createFileJournal(path.join(directory, 'leases'), log), {
      clock: systemClock,
      timings: DEFAULT_TIMINGS,
      log,
      changed: () => undefined,
    });
    t.after(() => writer.stop());
    await writer.check();
    rmSync(path.join(directory, 'leases.spare'));
    const state = { name: 'claimed', payload: Buffer.from('{}'), boots: 0 } as const;
    await Promise.all([1, 2, 3, 4].map((id) => writer.put({ ...record(id), state })));
    assert.equal(writer.problem, null);
    assert.deepEqual(readdirSync(directory).sort(), ['leases', 'leases.spare']);
  });
});

describe('too many open files under the journal', {
  skip: !isLimitable && 'prlimit is not installed',
}, () => {
  it('an entry that cannot be written then is written as soon as it can, and that is said', async (t) => {
    const directory = mkdtempSync(path.join(tmpdir(), 'forrest-journal-'));
    t.after(() => rmSync(directory, { recursive: true, force: true }));
    const lines: string[] = [];
    const log = createTestLog(lines);
    const journal = createFileJournal(path.join(directory, 'leases'), log);
    const writer = new JournalWriter(journal, {
      clock: systemClock,
      timings: { ...DEFAULT_TIMINGS, journalRetryMs: 20 },
      log,
      changed: () => undefined,
    });
    t.after(() => writer.stop());
    await writer.check();
    assert.equal(await writer.put(record(1)), true);
    const giveBack = useAllFiles();
    t.after(giveBack);
    assert.equal(await writer.put(record(2)), false);
    assert.match(writer.problem ?? '', /the journal cannot be written: .*EMFILE/);
    // An entry that is there stays as it is.
    assert.equal(await writer.put({ ...record(1), requestId: 'new' }), false);
    giveBack();
    await eventually('the journal to be written again', () => writer.problem === null);
    const { records, salvaged } = await journal.load();
    assert.deepEqual(records.map(({ facts, requestId }) => [facts.id, requestId]).sort(), [
      [1, 'new'],
      [2, null],
    ]);
    assert.deepEqual(salvaged, []);
    assert.match(lines.join('\n'), /a crash now would lose job 2/);
    assert.match(lines.join('\n'), /the journal can be written again/);
    assert.deepEqual(readdirSync(path.join(directory, 'leases')).sort(), [
      'job-1.json',
      'job-2.json',
    ]);
  });
});

/** Returns how to give them back. */
function useAllFiles(): () => void {
  const limit = (files: number): void => {
    const { status, stderr } = spawnSync('prlimit', [`--pid=${process.pid}`, `--nofile=${files}:`]);
    assert.equal(status, 0, String(stderr));
  };
  const before = Number(
    /\d+/.exec(
      String(
        spawnSync('prlimit', ['--nofile', '-o', 'SOFT', '--noheadings', `--pid=${process.pid}`])
          .stdout,
      ),
    )?.[0],
  );
  limit(256);
  const held: number[] = [];
  try {
    for (;;) held.push(openSync('/dev/null', 'r'));
  } catch {
    // That was the last one.
  }
  return () => {
    if (held.length === 0) return;
    for (const fd of held.splice(0)) closeSync(fd);
    limit(before);
  };
}

function record(id: number): LeaseRecord {
  return {
    facts: {
      id,
      token: 'glcbt-1',
      name: 'unit',
      project: 'a/b',
      ref: 'main',
      url: null,
      timeoutSeconds: 60,
      dependencies: [],
      failureReasons: [],
      protected: false,
      repoUrl: 'https://gitlab.example.test/a/b.git',
    },
    runner: 'build',
    runnerName: `forrest-build-${id}`,
    vmToken: 'glrt-x',
    requestId: null,
    stages: [{ name: 'claimed', at: 5 }],
    state: { name: 'running', pending: null },
    entered: { at: 5, monotonic: 5 },
  };
}
