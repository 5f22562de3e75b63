/** The answer to a small call, written in one piece. */

import { EventEmitter } from 'node:events';
import { type OutgoingHttpHeaders, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { GuestResponse } from './guest-call.ts';

/** These have no body, whatever comes with them. */
const BODILESS = new Set([204, 304]);

/** As Node's `ServerResponse` does it, with what that adds: `Date`, `Connection`, `Keep-Alive`. */
export class SmallResponse extends EventEmitter<{ close: [] }> implements GuestResponse {
  headersSent = false;
  readonly #socket: Socket;
  readonly #keepAliveMs: number;
  #head = '';
  #status = 200;
  #hasLength = false;
  #isOver = false;

  constructor(socket: Socket, keepAliveMs: number) {
    super();
    this.#socket = socket;
    this.#keepAliveMs = keepAliveMs;
  }

  get destroyed(): boolean {
    return this.#socket.destroyed;
  }

  get writableLength(): number {
    return this.#socket.writableLength;
  }

  writeHead(status: number, message: string, headers: string[] | OutgoingHttpHeaders): void {
    this.headersSent = true;
    this.#status = status;
    let head = `HTTP/1.1 ${status} ${message === '' ? (STATUS_CODES[status] ?? '') : message}\r\n`;
    let hasDate = false;
    const raw = Array.isArray(headers) ? headers : Object.entries(headers).flat();
    for (let at = 0; at + 1 < raw.length; at += 2) {
      const name = String(raw[at]);
      head += `${name}: ${raw[at + 1]}\r\n`;
      const key = name.toLowerCase();
      if (key === 'date') hasDate = true;
      if (key === 'content-length') this.#hasLength = true;
    }
    if (!hasDate) head += `Date: ${httpDate()}\r\n`;
    this.#head = `${head}Connection: keep-alive\r\nKeep-Alive: timeout=${Math.floor(this.#keepAliveMs / 1000)}\r\n`;
  }

  end(body: Buffer | string = ''): void {
    const text = typeof body === 'string' ? body : body.toString('latin1');
    const hasBody = !BODILESS.has(this.#status);
    const length = this.#hasLength || !hasBody ? '' : `Content-Length: ${text.length}\r\n`;
    this.#socket.write(`${this.#head}${length}\r\n${hasBody ? text : ''}`, 'latin1');
    process.nextTick(() => this.over());
  }

  /** Ends the connection without an answer. */
  destroy(): void {
    this.#socket.destroy();
  }

  /** The guest has the answer, or has gone. */
  over(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.emit('close');
  }
}

let date = { second: 0, text: '' };

function httpDate(): string {
  const second = Math.floor(Date.now() / 1000);
  if (second !== date.second) date = { second, text: new Date(second * 1000).toUTCString() };
  return date.text;
}
