/** The streaming core: one request to GitLab, and its answer on to the guest. It decides nothing. */

import type { ClientRequest, IncomingMessage, ServerResponse } from 'node:http';
import { ForrestGitlabError } from '../errors.ts';

/** GitLab's answer, of which only the head has come, or why there is none. */
export type Reply =
  | { readonly answer: IncomingMessage; readonly error?: undefined }
  | { readonly answer?: undefined; readonly error: unknown };

/** GitLab's answers to small calls and uploads are a few bytes; of an error page no runner needs more. */
const MAX_COLLECTED_BYTES = 64 * 1024;

/** One request, used once. Memory does not depend on the size of a body in either direction. */
export class Exchange {
  readonly #request: ClientRequest;
  readonly #incoming: IncomingMessage;
  readonly #outgoing: ServerResponse;
  #answer: IncomingMessage | undefined;
  #stopReading: (() => void) | undefined;
  bytesUp = 0;
  bytesDown = 0;
  /** Some of the guest's body has been read from it: it cannot be sent a second time. */
  hasReadBody = false;

  constructor(request: ClientRequest, incoming: IncomingMessage, outgoing: ServerResponse) {
    this.#request = request;
    this.#incoming = incoming;
    this.#outgoing = outgoing;
  }

  /**
   * Sends the body that was read before, or streams the guest's. Resolves with the head of the answer,
   * which may come while the guest still sends. Never rejects.
   */
  send(body: Buffer | 'streamed', stallMs: number): Promise<Reply> {
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
    else {
      this.bytesUp = body.length;
      request.end(body);
    }
    return replied;
  }

  /** Streams the answer's body on; the head has been written. Resolves when the guest has it, or never will. */
  relay(answer: IncomingMessage): Promise<void> {
    const outgoing = this.#outgoing;
    return new Promise((resolve) => {
      answer.on('data', (chunk: Buffer) => {
        this.bytesDown += chunk.length;
        if (!outgoing.write(chunk)) answer.pause();
      });
      outgoing.on('drain', () => answer.resume());
      answer.once('end', () => outgoing.end());
      // A cut connection is the only honest end of a body that GitLab did not finish.
      answer.once('close', () => {
        if (!answer.complete) outgoing.destroy();
      });
      outgoing.once('close', resolve);
      if (answer.destroyed) outgoing.destroy();
      if (outgoing.destroyed) resolve();
    });
  }

  /** A small answer's body whole; where GitLab cut it off, what came of it: its status counts all the same. */
  collect(answer: IncomingMessage): Promise<{ readonly body: Buffer; readonly isWhole: boolean }> {
    return new Promise((resolve) => {
      const chunks: Buffer[] = [];
      let size = 0;
      answer.on('data', (chunk: Buffer) => {
        this.bytesDown += chunk.length;
        size += chunk.length;
        if (size <= MAX_COLLECTED_BYTES) chunks.push(chunk);
        else answer.destroy();
      });
      answer.once('end', () => resolve({ body: Buffer.concat(chunks), isWhole: true }));
      answer.once('close', () => resolve({ body: Buffer.concat(chunks), isWhole: false }));
      if (answer.destroyed) resolve({ body: Buffer.alloc(0), isWhole: false });
    });
  }

  /** Takes no more of the guest's body; what is under way to GitLab is cut off. */
  abort(): void {
    this.#stopReading?.();
    this.#request.destroy();
  }

  /** Not a `pipe`: one listener per direction, and the guest's side stays open when GitLab's breaks. */
  #stream(): void {
    const request = this.#request;
    const incoming = this.#incoming;
    const onData = (chunk: Buffer): void => {
      this.bytesUp += chunk.length;
      if (!request.write(chunk)) incoming.pause();
    };
    const onEnd = (): void => void request.end();
    const onDrain = (): void => void incoming.resume();
    // Only once there is a connection: until then the call can be made again.
    const begin = (): void => {
      if (request.destroyed) return;
      this.hasReadBody = true;
      request.on('drain', onDrain);
      incoming.on('data', onData);
      incoming.once('end', onEnd);
      this.#stopReading = () => {
        request.off('drain', onDrain);
        incoming.off('data', onData);
        incoming.off('end', onEnd);
        incoming.pause();
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
        ? this.#request.writableNeedDrain
        : !answer.complete && !this.#outgoing.writableNeedDrain;
    if (!isGitlabs) return;
    const message = `GitLab took and sent nothing for ${stallMs / 1000} s`;
    this.#request.destroy(new ForrestGitlabError('upstream_timeout', message));
  }
}
