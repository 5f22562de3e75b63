/** One try of a call at GitLab, and its answer on to the guest. It decides nothing. */

import type { ClientRequest, IncomingMessage, ServerResponse } from 'node:http';
import { ForrestGitlabError } from '../errors.ts';
import { type Collected, collect } from '../lib/collect.ts';
import type { PendingCall } from '../upstream/index.ts';
import { Pump } from './pump.ts';

/** First line and headers of GitLab's answer. */
export type AnswerHead = Pick<
  IncomingMessage,
  'headers' | 'rawHeaders' | 'statusCode' | 'statusMessage'
>;

/** The head of GitLab's answer, or why there is none. */
export type Reply =
  | { readonly answer: AnswerHead; readonly error?: undefined }
  | { readonly answer?: undefined; readonly error: unknown };

/** What every try has. */
export interface Exchange {
  readonly bytesUp: number;
  readonly bytesDown: number;
  /** Some of the guest's body has been read from it: it cannot be sent a second time. */
  readonly hasReadBody: boolean;
  /** The body of an answer that is small. */
  collect(): Promise<Collected>;
  /** Nobody waits for it any more: what is under way to GitLab is cut off. */
  abort(): void;
}

/** A call whose body is at hand, and whose answer is small. */
export class SmallExchange implements Exchange {
  readonly bytesUp: number;
  bytesDown = 0;
  readonly hasReadBody = false;
  readonly #call: PendingCall;
  #collected: Collected = { body: Buffer.alloc(0), isWhole: false };

  constructor(call: PendingCall, bytesUp: number) {
    this.#call = call;
    this.bytesUp = bytesUp;
  }

  /** Never rejects. */
  async reply(): Promise<Reply> {
    try {
      const answer = await this.#call.answer;
      this.#collected = answer;
      this.bytesDown = answer.body.length;
      return { answer };
    } catch (error) {
      return { error };
    }
  }

  async collect(): Promise<Collected> {
    return this.#collected;
  }

  abort(): void {
    this.#call.abort();
  }
}

/** One request, used once. Memory does not depend on the size of a body in either direction. */
export class StreamedExchange implements Exchange {
  readonly #request: ClientRequest;
  readonly #incoming: IncomingMessage;
  readonly #outgoing: ServerResponse;
  #answer: IncomingMessage | undefined;
  #stopReading: (() => void) | undefined;
  bytesUp = 0;
  bytesDown = 0;
  hasReadBody = false;

  constructor(request: ClientRequest, incoming: IncomingMessage, outgoing: ServerResponse) {
    this.#request = request;
    this.#incoming = incoming;
    this.#outgoing = outgoing;
  }

  /**
   * Streams the guest's body, or sends none. Resolves with the head of the answer, which may come while
   * the guest still sends. Never rejects.
   */
  send(body: 'none' | 'streamed', stallMs: number): Promise<Reply> {
    const request = this.#request;
    const replied = new Promise<Reply>((resolve) => {
      request.once('response', (answer: IncomingMessage) => {
        this.#answer = answer;
        resolve({ answer });
      });
      // Also for those that come after the answer, which end the answer's body too.
      request.on('error', (error) => resolve({ error }));
      request.once('close', () => resolve({ error: new Error('closed without an answer') }));
    });
    request.on('timeout', () => this.#onIdle(stallMs));
    request.setTimeout(stallMs);
    if (body === 'streamed') this.#stream();
    else request.end();
    return replied;
  }

  /**
   * Streams the answer's body on; the head has been written. Resolves when the guest has it, or never will:
   * GitLab has cut it off, or the guest has gone.
   */
  relay(): Promise<'whole' | 'cut' | 'unwanted'> {
    const outgoing = this.#outgoing;
    const answer = this.#answer as IncomingMessage;
    return new Promise((resolve) => {
      const pump = new Pump(answer, outgoing, (count) => {
        this.bytesDown += count;
      });
      pump.freeReads();
      answer.once('end', () => outgoing.end());
      let isCut = false;
      // A cut connection is the only honest end of a body that GitLab did not finish.
      const cut = (): void => {
        isCut = !outgoing.destroyed;
        outgoing.destroy();
      };
      answer.once('close', () => {
        if (!answer.complete) cut();
      });
      const settle = (): void => resolve(isCut ? 'cut' : answer.complete ? 'whole' : 'unwanted');
      outgoing.once('close', settle);
      if (answer.destroyed) cut();
      if (outgoing.destroyed) settle();
    });
  }

  /** At once: a body that is cut off while we write the journal is noticed by nobody else. */
  async collect(): Promise<Collected> {
    const collected = await collect(this.#answer as IncomingMessage);
    this.bytesDown = collected.body.length;
    return collected;
  }

  /** Also takes no more of the guest's body. */
  abort(): void {
    this.#stopReading?.();
    this.#request.destroy();
  }

  #stream(): void {
    const request = this.#request;
    const incoming = this.#incoming;
    const onEnd = (): void => void request.end();
    // Only once there is a connection: until then the call can be made again.
    const begin = (): void => {
      if (request.destroyed) return;
      this.hasReadBody = true;
      const pump = new Pump(incoming, request, (count) => {
        this.bytesUp += count;
      });
      incoming.once('end', onEnd);
      this.#stopReading = () => {
        incoming.off('end', onEnd);
        pump.stop();
      };
    };
    request.once('socket', (socket) => {
      if (!socket.connecting) begin();
      else socket.once('encrypted' in socket ? 'secureConnect' : 'connect', begin);
    });
    request.flushHeaders();
  }

  /** Nothing moves on GitLab's side. Where that is the guest's doing, it is not GitLab's fault. */
  #onIdle(stallMs: number): void {
    const answer = this.#answer;
    const isGitlabs =
      answer === undefined
        ? this.#request.writableLength > 0
        : !answer.complete && this.#outgoing.writableLength === 0;
    if (!isGitlabs) return;
    const message = `GitLab took and sent nothing for ${stallMs / 1000} s`;
    this.#request.destroy(new ForrestGitlabError('upstream_timeout', message));
  }
}
