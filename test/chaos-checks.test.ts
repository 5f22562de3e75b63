/** The chaos run's own checks: each violation, planted, is seen; what is as it must be is not taken for one. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import path from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { outputOf } from './chaos/jobs.ts';
import { JournalWatch } from './chaos/journal-watch.ts';
import { isClean, type JobFacts, judge, type Leaks, type Summary } from './chaos/judge.ts';
import {
  journalFiles,
  machineRecords,
  processesOf,
  socketFiles,
  staleRunDirs,
} from './chaos/leaks.ts';
import { checkLog, JOURNAL_DAMAGED, NOTE } from './chaos/log-check.ts';
import { startRelay } from './chaos/relay.ts';
import { drawSchedule, FAULT_KINDS } from './chaos/schedule.ts';
import { startWitness } from './chaos/witness.ts';
import { eventually, within } from './support/deadline.ts';
import { temporaryDirectory } from './support/files.ts';
import { freePort } from './support/free-port.ts';

const OUTPUT = outputOf(7, 20);
const BEFORE = 'Running with gitlab-runner\nsection_start:1:step_script\r\u001b[0K$ bash work.sh\n';
const AFTER = '\u001b[32;1mJob succeeded\u001b[0;m\n';
const OUR_NOTE = `${NOTE}the machine ended before the job did\u001b[0;m\n`;
const NOTHING: Leaks = {
  ...{ machines: 0, reservationsMb: 0, runDirs: 0, journalFiles: 0 },
  ...{ tokens: 0, processes: 0, sockets: 0 },
};

/** A job that went as it must. */
function job(change: Partial<JobFacts> = {}): JobFacts {
  return {
    id: 1000,
    name: 'short-1',
    expected: { state: 'success', output: OUTPUT, transfers: false },
    status: 'success',
    failureReason: null,
    handedOut: 1,
    ended: 1,
    finals: [
      { state: 'success', status: 202 },
      { state: 'success', status: 200 },
    ],
    anomalies: [],
    log: Buffer.from(BEFORE + OUTPUT + AFTER),
    logIntact: true,
    received: true,
    answerMayBeLost: false,
    began: 1,
    mayBeginUnheard: false,
    scriptEnded: 0,
    canceled: false,
    disturbances: [],
    ...change,
  };
}

/** A job whose machine was killed in the middle. */
function killed(change: Partial<JobFacts> = {}): JobFacts {
  return job({
    status: 'failed',
    failureReason: 'runner_system_failure',
    finals: [{ state: 'failed', status: 200 }],
    log: Buffer.from(BEFORE + OUTPUT.slice(0, 50) + OUR_NOTE),
    scriptEnded: null,
    disturbances: ['its machine was killed'],
    ...change,
  });
}

function judged(jobs: readonly JobFacts[], leaked: Leaks = NOTHING) {
  return judge({ seed: 1, rounds: 1, faults: {}, jobs, leaked });
}

type Count = Exclude<keyof Summary, 'leaked' | 'faults'>;

describe('the judge of a chaos run', () => {
  const fine: Record<string, JobFacts> = {
    'a job that ran': job(),
    'a job whose machine was killed': killed(),
    'a killed machine whose job had nothing printed': killed({ log: Buffer.from(OUR_NOTE) }),
    'a job that was to fail': job({
      expected: { state: 'failed', output: OUTPUT, transfers: false },
      status: 'failed',
      failureReason: 'script_failure',
      scriptEnded: 3,
    }),
    'a job whose host lost, with its journal, that it had said why': killed({
      log: Buffer.from(BEFORE + OUTPUT.slice(0, 50) + OUR_NOTE + OUR_NOTE),
      disturbances: [JOURNAL_DAMAGED],
    }),
    'a job whose host lost, with its journal, what its runner had said': killed({
      anomalies: ['a final update without a checksum after one with it'],
      disturbances: [JOURNAL_DAMAGED],
    }),
    'a canceled job': killed({
      status: 'canceled',
      failureReason: null,
      canceled: true,
      log: Buffer.from(`${BEFORE}${OUTPUT.slice(0, 50)}\n\u001b[31;1mERROR: canceled\n`),
      disturbances: [],
    }),
    'a job that was canceled before anybody had it': job({
      ...{ status: 'canceled', canceled: true, handedOut: 0, ended: 0, received: false },
      ...{ log: Buffer.alloc(0), finals: [], began: 0, scriptEnded: null },
    }),
    'a runner that spoke too late for anybody to know that its script had begun': job({
      ...{ began: 2, mayBeginUnheard: true, disturbances: ['its machine was killed'] },
    }),
    'an upload that nobody took for a while': killed({
      expected: { state: 'success', output: OUTPUT, transfers: true },
      failureReason: 'script_failure',
      log: Buffer.from(BEFORE + OUTPUT + AFTER),
      scriptEnded: 0,
      disturbances: ['its host could not be reached'],
    }),
  };
  for (const [name, facts] of Object.entries(fine)) {
    it(`takes no offence at ${name}`, () => {
      const verdict = judged([facts]);
      assert.deepEqual(verdict.violations, []);
      assert.equal(isClean(verdict), true);
    });
  }

  const planted: [Count, string, JobFacts][] = [
    ['lost', 'a job that still runs', killed({ status: 'running', failureReason: null })],
    [
      'lost',
      'a job whose host says nothing of it, though no answer was cut',
      killed({ status: 'running', received: false }),
    ],
    ['unfinished', 'a job that nobody took', job({ status: 'pending', handedOut: 0 })],
    [
      'endedTwice',
      'two final updates that GitLab took',
      job({
        finals: [
          { state: 'success', status: 200 },
          { state: 'failed', status: 200 },
        ],
      }),
    ],
    ['endedTwice', 'a job that came to two ends', job({ ended: 2 })],
    ['endedTwice', 'two that differ', job({ anomalies: ['two different final updates'] })],
    [
      'endedTwice',
      'our own end after the runner’s',
      killed({ anomalies: ['a final update without a checksum after one with it'] }),
    ],
    ['ranTwice', 'a script that began twice', job({ began: 2 })],
    [
      'ranTwice',
      'one in a machine that was killed, whose runner speaks first',
      job({ began: 2, disturbances: ['its machine was killed'] }),
    ],
    [
      'ranTwice',
      'one whose runner speaks late, and whose machine nobody killed',
      job({ began: 2, mayBeginUnheard: true }),
    ],
    ['logDamaged', 'a log that its runner did not send', job({ logIntact: false })],
    ['wrongState', 'a job that failed by itself', killed({ disturbances: [] })],
    [
      'wrongState',
      'a success whose script never ended',
      job({ scriptEnded: null, disturbances: ['its machine was killed'] }),
    ],
    [
      'wrongState',
      'a cancel that nobody asked for',
      killed({ status: 'canceled', failureReason: null }),
    ],
    [
      'wrongState',
      'a script’s failure that the script did not have',
      killed({ failureReason: 'script_failure', log: Buffer.from(BEFORE + OUTPUT + AFTER) }),
    ],
  ];
  for (const [count, name, facts] of planted) {
    it(`counts ${name} as ${count}`, () => {
      const verdict = judged([job(), facts]);
      assert.equal(verdict.summary[count], 1);
      assert.equal(isClean(verdict), false);
      assert.equal(verdict.violations.length, 1, verdict.violations.join('\n'));
    });
  }

  it('counts jobs whose 201 was cut before it was read, and holds them against nobody', () => {
    const facts = { received: false, answerMayBeLost: true, log: Buffer.alloc(0), began: 0 };
    const verdict = judged([
      killed({ ...facts, status: 'running' }),
      killed({ ...facts, failureReason: 'no_updates_running', disturbances: [] }),
    ]);
    assert.equal(verdict.summary.neverReceived, 2);
    assert.deepEqual(verdict.violations, []);
    assert.equal(isClean(verdict), true);
  });

  for (const what of Object.keys(NOTHING)) {
    it(`is not clean where ${what} are left`, () => {
      const verdict = judged([job()], { ...NOTHING, [what]: 1 });
      assert.equal(isClean(verdict), false);
      assert.deepEqual(verdict.violations, [`leaked: 1 ${what}`]);
    });
  }
});

describe('the check of a log', () => {
  const log = (text: string, like = killed()): string | null =>
    checkLog({ ...like, log: Buffer.from(text) });
  const stamped = (text: string): string =>
    text.replaceAll(/^/gm, '2026-05-01T10:00:00.000000Z 00O ').replace(/^\S+ 00O $/m, '');

  it('reads through time stamps, a cut one included', () => {
    const whole = stamped(BEFORE + OUTPUT + AFTER);
    assert.equal(log(whole, job()), null);
    const cut = whole.indexOf('CHAOS 7 5 ') - 9;
    assert.equal(log(whole.slice(0, cut) + OUR_NOTE), null);
    assert.equal(log(whole.slice(0, cut + 15) + OUR_NOTE), null);
  });

  const damages: [string, string, JobFacts][] = [
    ['a line that is missing', BEFORE + OUTPUT.replace(/CHAOS 7 4 .*\n/, '') + AFTER, job()],
    ['a line that came twice', BEFORE + OUTPUT.replace(/(CHAOS 7 4 .*\n)/, '$1$1') + AFTER, job()],
    ['a byte that has changed', BEFORE + OUTPUT.replace('7 4 ', '7 5 ') + AFTER, job()],
    ['an end that is missing', BEFORE + OUTPUT.slice(0, -30), job()],
    ['no output at all', BEFORE + AFTER, job()],
    ['our note in a job that ended by itself', BEFORE + OUTPUT + AFTER + OUR_NOTE, job()],
    ['our note twice', BEFORE + OUTPUT.slice(0, 50) + OUR_NOTE + OUR_NOTE, killed()],
    ['output after our note', BEFORE + OUTPUT.slice(0, 50) + OUR_NOTE + OUTPUT.slice(50), killed()],
    ['no word of why it failed', BEFORE + OUTPUT.slice(0, 50), killed()],
    ['something else in the middle', `${BEFORE}${OUTPUT.slice(0, 50)}??${OUR_NOTE}`, killed()],
    ['a gap', BEFORE + OUTPUT.slice(0, 50) + OUTPUT.slice(90) + OUR_NOTE, killed()],
  ];
  for (const [name, text, like] of damages) {
    it(`sees ${name}`, () => assert.notEqual(log(text, like), null));
  }
});

describe('the schedule of a chaos run', () => {
  it('is the same for the same seed, and another for another', () => {
    const draw = (seed: number) => drawSchedule({ seed, rounds: 40, jobsPerRound: 3 });
    assert.deepEqual(draw(5), draw(5));
    assert.notDeepEqual(draw(5), draw(6));
    assert.deepEqual(draw(5).slice(0, 10), drawSchedule({ seed: 5, rounds: 10, jobsPerRound: 3 }));
  });

  it('has every kind of fault before any comes again', () => {
    const rounds = drawSchedule({ seed: 9, rounds: FAULT_KINDS.length, jobsPerRound: 1 });
    assert.deepEqual(rounds.map(({ fault }) => fault.kind).toSorted(), FAULT_KINDS.toSorted());
  });
});

describe('what a chaos run looks at', () => {
  const touch = async (...parts: string[]): Promise<void> => {
    const file = path.join(...parts);
    await mkdir(path.dirname(file), { recursive: true });
    await writeFile(file, '');
  };

  it('finds what is left on disk', async (t) => {
    const base = await temporaryDirectory(t);
    for (const find of [machineRecords, journalFiles, staleRunDirs, socketFiles]) {
      assert.deepEqual(find(base), []);
    }
    await touch(base, 'state/host/machines/forrest-a.json');
    await touch(base, 'state/gitlab/leases/job-1.json');
    await touch(base, 'state/gitlab/leases/job-2.json.tmp');
    await touch(base, 'state/gitlab/leases/job-3.json.damaged');
    await touch(base, 'runs/_/shell/forrest-kept/log.txt');
    assert.equal(machineRecords(base).length, 1);
    assert.equal(journalFiles(base).length, 2);
    assert.equal(staleRunDirs(base).length, 0);
    await touch(base, 'runs/_/shell/forrest-stale/disk.img');
    assert.equal(staleRunDirs(base).length, 1);
    for (let n = 0; n < 20; n++) await touch(base, `runs/_/shell/forrest-${n}/log.txt`);
    assert.equal(staleRunDirs(base).length, 3);
    const server = net.createServer().listen(path.join(base, 'api.sock'));
    await once(server, 'listening');
    t.after(() => server.close());
    assert.equal(socketFiles(base).length, 1);
  });

  it('finds processes by where they work and what they were told', async (t) => {
    const base = await temporaryDirectory(t);
    assert.deepEqual(processesOf(base), []);
    const children = [
      spawn('sleep', ['600'], { cwd: base, detached: true }),
      spawn('sleep', ['600'], { env: { ...process.env, HOME: base }, detached: true }),
    ];
    t.after(() => children.forEach((child) => void child.kill('SIGKILL')));
    await Promise.all(children.map((child) => once(child, 'spawn')));
    assert.deepEqual(
      processesOf(base).toSorted(),
      children.map((child) => child.pid ?? 0).toSorted(),
    );
  });

  it('sees journal entries come and go', async (t) => {
    const base = await temporaryDirectory(t);
    const watch = new JournalWatch(base);
    t.after(() => watch.close());
    const entry = { runnerName: 'forrest-a', vmToken: 'glrt-a', state: { name: 'booting' } };
    await writeFile(watch.fileOf(7), JSON.stringify(entry));
    await eventually('the entry', () => watch.live.get(7)?.state === 'booting');
    await writeFile(watch.fileOf(7), '{"cut');
    await rm(watch.fileOf(7));
    await eventually('its end', () => !watch.live.has(7));
    assert.deepEqual([...watch.received], [7]);
    assert.deepEqual([...watch.vmTokens], ['glrt-a']);
  });

  it('hears a script that begins twice', async (t) => {
    const witness = await startWitness();
    t.after(() => witness.close());
    const tell = async (line: string): Promise<void> => {
      const socket = net.connect(witness.port, '127.0.0.1');
      socket.end(line);
      await within('an answer', once(socket, 'data'));
    };
    await tell('12 began\n');
    await tell('12 began\n');
    await tell('13 began\n');
    await tell('13 ended 3\n');
    assert.deepEqual(witness.of(12), { began: 2, ended: null });
    assert.deepEqual(witness.of(13), { began: 1, ended: 3 });
  });
});

describe('the network of a chaos run', () => {
  async function startEcho(t: TestContext) {
    const server = net.createServer((socket) => socket.on('error', () => undefined).pipe(socket));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    const relay = await startRelay(await freePort(), (server.address() as net.AddressInfo).port);
    t.after(async () => {
      await relay.close();
      server.close();
    });
    const connect = async (): Promise<net.Socket> => {
      const socket = net.connect(relay.port, '127.0.0.1');
      t.after(() => socket.destroy());
      await within('a connection', once(socket, 'connect'));
      return socket;
    };
    return { relay, connect };
  }
  const echo = async (socket: net.Socket, text: string): Promise<string> => {
    const answer = once(socket, 'data');
    socket.write(text);
    return String((await within('an echo', answer))[0]);
  };

  it('refuses, and serves again on the same port', async (t) => {
    const { relay, connect } = await startEcho(t);
    const before = await connect();
    const closed = once(before, 'close');
    await relay.set({ kind: 'refuse' });
    await within('the connection to be cut', closed);
    await assert.rejects(connect(), { code: 'ECONNREFUSED' });
    await relay.set({ kind: 'open' });
    assert.equal(await echo(await connect(), 'again'), 'again');
  });

  it('hangs, and then lets through what waited', async (t) => {
    const { relay, connect } = await startEcho(t);
    const socket = await connect();
    await relay.set({ kind: 'hang' });
    let heard = '';
    socket.on('data', (chunk) => {
      heard += chunk;
    });
    socket.write('waited');
    const other = await connect();
    other.write('too');
    await assert.rejects(within('no echo', once(other, 'data'), 200));
    assert.equal(heard, '');
    await relay.set({ kind: 'open' });
    await eventually('the echo', () => heard === 'waited');
  });

  it('cuts after so many bytes', async (t) => {
    const { relay, connect } = await startEcho(t);
    const socket = await connect();
    socket.on('error', () => undefined);
    assert.equal(await echo(socket, 'fine'), 'fine');
    await relay.set({ kind: 'cut', afterBytes: 100 });
    const closed = once(socket, 'close');
    socket.write('x'.repeat(200));
    await within('the cut', closed);
    await eventually('the relay to know', () => relay.connections === 0);
  });

  it('is slow', async (t) => {
    const { relay, connect } = await startEcho(t);
    const socket = await connect();
    await relay.set({ kind: 'slow', latencyMs: 60, bytesPerSecond: 1_000_000 });
    const from = performance.now();
    await echo(socket, 'late');
    assert.ok(performance.now() - from >= 120, 'both ways take their time');
  });
});

describe('a run that takes too long', () => {
  it('fails, says what it waits for, and leaves no process behind', async (t) => {
    const directory = await temporaryDirectory(t);
    const cli = path.join(import.meta.dirname, 'chaos/cli.ts');
    const run = spawn(
      process.execPath,
      ['--conditions=forrest-gitlab-source', cli, ...'--seed 1 --rounds 1 --limit 1'.split(' ')],
      { env: { ...process.env, TMPDIR: directory }, stdio: ['ignore', 'ignore', 'pipe'] },
    );
    t.after(() => run.kill('SIGKILL'));
    let said = '';
    run.stderr.on('data', (chunk: Buffer) => {
      said += chunk.toString();
    });
    const [code] = await within('the run to give up', once(run, 'close'), 50_000);
    assert.equal(code, 1, said);
    assert.match(said, /did not end within 1 s: it waits for its hosts to be ready/);
    assert.deepEqual(processesOf(directory), []);
  });
});
