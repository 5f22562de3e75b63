/** What real runners sent, as bytes for a machine and a job of ours. */

import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';

interface Exchange {
  readonly method: string;
  readonly path: string;
  readonly headers?: ReadonlyArray<readonly [string, string]>;
  readonly body: unknown;
}

interface Recording {
  readonly scenarios: ReadonlyArray<{ readonly exchanges: readonly Exchange[] }>;
}

/** Whose words they are to be. */
export interface Speaker {
  readonly vmToken: string;
  readonly jobId: number;
  readonly jobToken: string;
}

const directory = path.join(import.meta.dirname, '../../fixtures/guest/recordings');

const EXCHANGES: readonly Exchange[] = readdirSync(directory)
  .sort()
  .flatMap((name) => {
    const text = readFileSync(path.join(directory, name), 'utf8');
    return (JSON.parse(text) as Recording).scenarios.flatMap(({ exchanges }) => exchanges ?? []);
  })
  .filter((exchange) => exchange.headers !== undefined);

/** Requests, head and body, in the order of the recordings. */
export function exchangesOf(speaker: Speaker): string[] {
  return EXCHANGES.map((exchange) => toBytes(exchange, speaker));
}

function toBytes(exchange: Exchange, speaker: Speaker): string {
  const told = (text: string): string =>
    text
      .replaceAll('<vm token>', speaker.vmToken)
      .replaceAll('<proxy>', '10.0.2.2:8090')
      .replaceAll(/glcbt-\w+/g, speaker.jobToken)
      .replaceAll(/\/jobs\/\d+/g, `/jobs/${speaker.jobId}`);
  const headers = (exchange.headers ?? []).map(([name, value]) => [name, told(value)] as const);
  const type = headers.find(([name]) => name === 'Content-Type')?.[1] ?? '';
  const body = told(bodyOf(exchange.body, type));
  const isChunked = headers.some(([name]) => name === 'Transfer-Encoding');
  const lines = headers.map(([name, value]) => {
    if (name === 'Content-Length') return `${name}: ${Buffer.byteLength(body)}`;
    if (name === 'Content-Range') return `${name}: 0-${Buffer.byteLength(body) - 1}`;
    return `${name}: ${value}`;
  });
  const size = Buffer.byteLength(body).toString(16);
  const sent = isChunked ? `${size}\r\n${body}\r\n0\r\n\r\n` : body;
  const request = [`${exchange.method} ${told(exchange.path)} HTTP/1.1`, ...lines, '', sent];
  // One character a byte, as mutations take it.
  return Buffer.from(request.join('\r\n')).toString('latin1');
}

function bodyOf(body: unknown, type: string): string {
  const boundary = /boundary=(\S+)/.exec(type)?.[1];
  if (boundary !== undefined) {
    const disposition = 'form-data; name="file"; filename="artifacts.zip"';
    return `--${boundary}\r\nContent-Disposition: ${disposition}\r\n\r\nPK\x03\x04\r\n--${boundary}--\r\n`;
  }
  if (typeof body === 'string') return body;
  return body === null || body === undefined ? '' : JSON.stringify(body);
}
