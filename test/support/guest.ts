/** What the runner in a machine says, spoken by a test. */

import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import http, { type IncomingMessage } from 'node:http';
import path from 'node:path';
import { crc32 } from 'node:zlib';
import type { SimJob } from '../../fixtures/gitlab/index.ts';
import type { MachineRow } from '../../fixtures/host/src/index.ts';
import { bodyOf } from './http-server.ts';

export interface GuestAnswer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Buffer;
}

export interface GuestCall {
  readonly headers?: Readonly<Record<string, string>>;
  readonly json?: unknown;
  readonly body?: string | Uint8Array<ArrayBuffer> | FormData;
}

export interface Guest {
  /** The runner's `--url`, with the VM token. */
  readonly url: string;
  readonly token: string;
  readonly runnerName: string;
  readonly runDir: string;
  /** `path` below `api/v4/`; no headers but those given. */
  call(method: string, path: string, options?: GuestCall): Promise<GuestAnswer>;
  /** `POST jobs/request`. */
  request(): Promise<GuestAnswer>;
  /** Asks for the job and makes the first own call for it. */
  takeJob(): Promise<void>;
  keepAlive(): Promise<GuestAnswer>;
  log(text: string): Promise<GuestAnswer>;
  /** The final update, with what it has logged. */
  finish(
    state: 'success' | 'failed',
    more?: Readonly<Record<string, unknown>>,
  ): Promise<GuestAnswer>;
  powerOff(exitCode?: number): Promise<void>;
  /** The whole machine, at once. */
  kill(): void;
}

/** Rejects while the machine's files are not there yet. */
export async function createGuest(machine: MachineRow, job: SimJob): Promise<Guest> {
  const file = path.join(machine.runDir, 'job-config/runner.json');
  const { url, token } = JSON.parse(await readFile(file, 'utf8')) as { url: string; token: string };
  return speakFor(
    {
      url,
      token,
      runnerName: machine.runnerName,
      runDir: machine.runDir,
      powerOff: (exitCode) => writeFile(path.join(machine.runDir, 'poweroff'), String(exitCode)),
      kill: () => void process.kill(-(machine.pid ?? Number.NaN), 'SIGKILL'),
    },
    job,
  );
}

/** A machine whose runner a test speaks for. */
export interface GuestMachine {
  readonly url: string;
  readonly token: string;
  readonly runnerName: string;
  readonly runDir: string;
  powerOff(exitCode: number): Promise<void>;
  kill(): void;
}

export function speakFor(machine: GuestMachine, job: SimJob): Guest {
  const { url, token } = machine;
  let logged = '';
  const guest: Guest = {
    url,
    token,
    runnerName: machine.runnerName,
    runDir: machine.runDir,
    async call(method, target, { headers = {}, json, body } = {}) {
      const init = {
        method,
        headers: json === undefined ? headers : { 'content-type': 'application/json', ...headers },
      };
      const content = json === undefined ? (body ?? null) : JSON.stringify(json);
      return send(new Request(`${url}/api/v4/${target}`, { ...init, body: content }));
    },
    request: () =>
      guest.call('POST', 'jobs/request', {
        json: { token, system_id: 'r_test', info: { features: { cancel_gracefully: true } } },
      }),
    async takeJob() {
      const { status } = await guest.request();
      if (status !== 201) throw new Error(`jobs/request answered ${status}`);
      await guest.keepAlive();
    },
    keepAlive: () =>
      guest.call('PUT', `jobs/${job.id}`, { json: { token: job.token, state: 'running' } }),
    async log(text) {
      const answer = await guest.call('PATCH', `jobs/${job.id}/trace`, {
        headers: {
          'job-token': job.token,
          'content-type': 'text/plain',
          'content-range': `${logged.length}-${logged.length + text.length - 1}`,
        },
        body: text,
      });
      if (answer.status === 202) logged += text;
      return answer;
    },
    finish: (state, more = {}) =>
      guest.call('PUT', `jobs/${job.id}`, {
        json: { token: job.token, state, output: outputOf(logged), ...more },
      }),
    powerOff: (exitCode = 0) => machine.powerOff(exitCode),
    kill: () => machine.kill(),
  };
  return guest;
}

/** Each call over a connection of its own: those of an ended machine are closed. */
async function send(request: Request): Promise<GuestAnswer> {
  const body = Buffer.from(await request.arrayBuffer());
  const outgoing = http.request(request.url, {
    agent: false,
    method: request.method,
    headers: {
      ...Object.fromEntries(request.headers),
      ...(request.method === 'GET' ? {} : { 'content-length': body.length }),
    },
  });
  const answered = once(outgoing, 'response') as Promise<[IncomingMessage]>;
  outgoing.end(body);
  const [incoming] = await answered;
  // An answer that comes before the body's end may be followed by a reset.
  outgoing.on('error', () => undefined);
  const headers = new Headers();
  for (let at = 0; at + 1 < incoming.rawHeaders.length; at += 2) {
    headers.append(incoming.rawHeaders[at] ?? '', incoming.rawHeaders[at + 1] ?? '');
  }
  return { status: incoming.statusCode ?? 0, headers, body: await bodyOf(incoming) };
}

function outputOf(log: string): object {
  return { checksum: `crc32:${crc32(log).toString(16).padStart(8, '0')}`, bytesize: log.length };
}
