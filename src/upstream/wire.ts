/**
 * Small calls to GitLab over connections of our own. Node's HTTP client takes four times the CPU for such
 * a call, most of it for what a call of two KiB whose answer has a few bytes does not need.
 */

import type { IncomingHttpHeaders, OutgoingHttpHeaders } from 'node:http';
import net, { type Socket } from 'node:net';
import tls from 'node:tls';
import { ForrestGitlabError } from '../errors.ts';
import type { Clock, Timer } from '../lib/clock.ts';
import { ADDRESS_MS, type Addresses } from './addresses.ts';
import { type AnswerHead, AnswerParser } from './answer-parser.ts';

/** A call whose body is at hand. */
export interface SmallCall {
  readonly method: string;
  /** Absolute path and query below GitLab's address. Already checked. */
  readonly path: string;
  /** Without those of the body's length and of the connection. */
  readonly headers: OutgoingHttpHeaders;
  readonly body: Buffer;
  /** How long GitLab may take to begin its answer. */
  readonly answerTimeoutMs: number;
  /** How long it may then stop in the middle of it. */
  readonly stallMs: number;
  /** Of the answer's body; else as many as small answers have. */
  readonly maxAnswerBytes?: number;
  /** Over a new connection: one that was kept may be dead and not know it. */
  readonly fresh?: boolean;
}

/** An answer with its body. */
export interface WholeAnswer extends AnswerHead {
  readonly body: Buffer;
  /** False where GitLab broke off, or went on for too long: what came of it, whose status counts all the same. */
  readonly isWhole: boolean;
}

export interface PendingCall {
  /** Rejects where no head of an answer came. */
  readonly answer: Promise<WholeAnswer>;
  /** Nobody waits for it any more. */
  abort(): void;
}

export interface WireOptions {
  readonly hostname: string;
  readonly port: number;
  /** `Host` header. */
  readonly host: string;
  /** Null: not encrypted. */
  readonly secureContext: tls.SecureContext | null;
  /** GitLab's address, for people. */
  readonly url: string;
  readonly connectTimeoutMs: number;
  readonly clock: Clock;
  /** What is known of the host's. */
  readonly addresses: Addresses;
}

/** Idle connections kept: as many as a large host has jobs talking at once. */
const MAX_IDLE = 256;

/** Shorter than what servers and load balancers keep theirs for: a call on a closed one has to be repeated. */
const IDLE_MS = 50_000;

/** Of all connections: what one has read is copied before another one reads. Node would make a buffer for each read. */
const RECEIVED = Buffer.allocUnsafeSlow(64 * 1024);

/** A value with a line break in it would begin another header. */
const UNSAFE = /[^\t\x20-\x7e\x80-\xff]/;

export class Wire {
  readonly #options: WireOptions;
  /** The last one used is at the end. */
  readonly #idle: Connection[] = [];
  readonly #open = new Set<Connection>();

  constructor(options: WireOptions) {
    this.#options = options;
  }

  call(call: SmallCall): PendingCall {
    const message = toBytes(call, this.#options.host);
    const connection = (call.fresh === true ? undefined : this.#takeIdle()) ?? this.#connect();
    return connection.exchange(message, call);
  }

  close(): void {
    for (const connection of this.#open) connection.destroy();
  }

  #takeIdle(): Connection | undefined {
    const now = this.#options.clock.monotonic();
    for (;;) {
      const connection = this.#idle.pop();
      if (connection === undefined || connection.idleUntil > now) return connection;
      connection.destroy();
    }
  }

  #connect(): Connection {
    const connection = new Connection(this.#options, {
      idle: () => {
        this.#idle.push(connection);
        if (this.#idle.length > MAX_IDLE) this.#idle.shift()?.destroy();
      },
      closed: () => {
        this.#open.delete(connection);
        const at = this.#idle.indexOf(connection);
        if (at >= 0) this.#idle.splice(at, 1);
      },
    });
    this.#open.add(connection);
    return connection;
  }
}

interface Owner {
  /** It may serve another call. */
  idle(): void;
  /** It serves none any more. May be told twice. */
  closed(): void;
}

interface Exchange {
  readonly parser: AnswerParser;
  readonly call: SmallCall;
  readonly resolve: (answer: WholeAnswer) => void;
  readonly reject: (error: Error) => void;
}

/** One connection, one call at a time. */
class Connection {
  /** Monotonic ms: after that, GitLab may be closing it just when a call is sent. */
  idleUntil = 0;
  readonly #socket: Socket;
  readonly #options: WireOptions;
  readonly #owner: Owner;
  #exchange: Exchange | null = null;
  #limit: Timer | null = null;
  #isConnected = false;

  constructor(options: WireOptions, owner: Owner) {
    this.#options = options;
    this.#owner = owner;
    const { hostname: host, port, secureContext } = options;
    const target = {
      host,
      port,
      noDelay: true,
      keepAlive: true,
      lookup: options.addresses.lookup,
      autoSelectFamilyAttemptTimeout: ADDRESS_MS,
      onread: {
        buffer: RECEIVED,
        callback: (bytes: number, buffer: Uint8Array) => {
          this.#onData(Buffer.from(buffer.subarray(0, bytes)));
          return true;
        },
      },
    };
    const socket =
      secureContext === null
        ? net.connect(target)
        : tls.connect({
            ...target,
            secureContext,
            servername: net.isIP(host) === 0 ? host : '',
            ALPNProtocols: ['http/1.1'],
          });
    this.#socket = socket;
    options.addresses.watch(socket);
    const { connectTimeoutMs: limitMs, url } = options;
    this.#limitTo(limitMs, `no connection to ${url} within ${limitMs / 1000} s`);
    socket.once(secureContext === null ? 'connect' : 'secureConnect', () => {
      this.#isConnected = true;
      if (this.#exchange !== null) this.#awaitAnswer(this.#exchange);
    });
    socket.on('error', (error) => this.#onEnd(error));
    socket.on('end', () => {
      this.#exchange?.parser.close();
      this.#settle();
      this.destroy();
    });
    socket.on('close', () => {
      this.#onEnd(Object.assign(new Error('closed without an answer'), { code: 'ECONNRESET' }));
      owner.closed();
    });
  }

  exchange(message: Buffer, call: SmallCall): PendingCall {
    const { promise, resolve, reject } = Promise.withResolvers<WholeAnswer>();
    this.#exchange = { parser: new AnswerParser(call.maxAnswerBytes), call, resolve, reject };
    this.#socket.ref();
    this.#socket.write(message);
    if (this.#isConnected) this.#awaitAnswer(this.#exchange);
    const own = this.#exchange;
    return {
      answer: promise,
      abort: () => {
        if (this.#exchange === own) this.destroy();
      },
    };
  }

  destroy(): void {
    this.#owner.closed();
    this.#socket.destroy();
  }

  #awaitAnswer({ call }: Exchange): void {
    const { answerTimeoutMs: limitMs } = call;
    this.#limitTo(limitMs, `${this.#options.url} did not answer within ${limitMs / 1000} s`);
  }

  #onData(data: Buffer): void {
    const exchange = this.#exchange;
    // Nobody has asked for anything.
    if (exchange === null) {
      this.destroy();
      return;
    }
    const { parser, call } = exchange;
    try {
      parser.push(data);
    } catch (error) {
      this.#socket.destroy(error as Error);
      return;
    }
    if (parser.isWhole || parser.isTooLong) {
      this.#settle();
    } else if (parser.head !== null) {
      this.#limitTo(call.stallMs, `${this.#options.url} stopped in the middle of its answer`);
    }
  }

  /** The answer has come as far as it will. */
  #settle(): void {
    const exchange = this.#exchange;
    if (exchange === null) return;
    const { parser, resolve } = exchange;
    if (parser.head === null) return;
    this.#exchange = null;
    this.#limit?.cancel();
    const { statusCode, statusMessage, headers, rawHeaders } = parser.head;
    if (parser.isWhole && parser.keepsConnection && exchange.call.fresh !== true) {
      this.idleUntil = this.#options.clock.monotonic() + idleMs(headers);
      this.#socket.unref();
      this.#owner.idle();
    } else {
      this.destroy();
    }
    const { body, isWhole } = parser;
    resolve({ statusCode, statusMessage, headers, rawHeaders, body, isWhole });
  }

  #onEnd(error: Error): void {
    this.#settle();
    this.#limit?.cancel();
    this.#exchange?.reject(error);
    this.#exchange = null;
  }

  #limitTo(limitMs: number, message: string): void {
    this.#limit?.cancel();
    this.#limit = this.#options.clock.after(limitMs, () => {
      this.#socket.destroy(new ForrestGitlabError('upstream_timeout', message));
    });
  }
}

/** A server may say for how long it keeps an idle connection. */
function idleMs(headers: IncomingHttpHeaders): number {
  const seconds = /(?:^|[,; ])timeout=([0-9]{1,6})/i.exec(
    headers['keep-alive']?.toString() ?? '',
  )?.[1];
  return seconds === undefined ? IDLE_MS : Math.min(IDLE_MS, (Number(seconds) - 1) * 1000);
}

function toBytes({ method, path, headers, body }: SmallCall, host: string): Buffer {
  let head = `${method} ${path} HTTP/1.1\r\nHost: ${host}\r\n`;
  for (const name in headers) {
    if (name === 'content-length') continue;
    const value = String(headers[name]);
    if (UNSAFE.test(value)) throw new TypeError(`${name} holds what no header may hold`);
    head += `${name}: ${value}\r\n`;
  }
  head += `Content-Length: ${body.length}\r\nConnection: keep-alive\r\n\r\n`;
  const message = Buffer.allocUnsafe(head.length + body.length);
  message.write(head, 'latin1');
  body.copy(message, head.length);
  return message;
}
