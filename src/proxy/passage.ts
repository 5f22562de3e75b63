/**
 * One checked call on its way to GitLab, through whatever outage comes (design §6).
 *
 * While GitLab is out, a call waits at the gate with its body unread. A call that fails is repeated from
 * here where nothing of its body is lost by that; a broken upload is its runner's to repeat, and the
 * runner is told so only once that has a chance. What one call alone fails with is waited for with a
 * growing delay; it makes nobody else wait. Before the runner's own patience ends, it gets the answer
 * on which it waits.
 */

import type { OutgoingHttpHeaders } from 'node:http';
import { HEADERS } from '../gitlab/index.ts';
import type { Lease } from '../leases/index.ts';
import { readRetryAfter } from '../lib/retry-after.ts';
import { readBody } from './body.ts';
import {
  hasBrokenTransfer,
  noteBrokenTransfer,
  noteWholeTransfer,
  transferDelayMs,
} from './broken-transfers.ts';
import { logCall } from './call-log.ts';
import { endEarly } from './early.ts';
import {
  type AnswerHead,
  type Exchange,
  type Reply,
  SmallExchange,
  StreamedExchange,
} from './forward.ts';
import { type GuestCall, isWhole, streamsOf } from './guest-call.ts';
import { rawHeadersDown, withLength } from './headers.ts';
import { MAX_REPEATED_BYTES } from './held.ts';
import { Hold, type Waited } from './hold.ts';
import {
  isOutAnswer,
  isSuspicious,
  lostAnswer,
  showsGitlab,
  tryAgain,
  waitingAnswer,
} from './outage.ts';
import { giveAnswer, type OwnAnswer, plain } from './own-answer.ts';
import type { Route } from './routes.ts';
import type { ForwardedCall, ProxyServices } from './services.ts';

export interface CheckedCall extends GuestCall {
  readonly lease: Lease;
  readonly route: Route;
  /** Path and query below GitLab's address, made of checked parts. */
  readonly path: string;
  readonly headers: OutgoingHttpHeaders;
  /** Where it has been read already. */
  readonly body?: Buffer;
  /** Set for a final update. */
  readonly final?: FinalUpdate;
  /** GitLab's answer, before the guest gets any of it. */
  onAnswer(answer: Answered): Promise<void>;
}

export interface FinalUpdate {
  readonly state: 'success' | 'failed';
  /** Holds it durably, to be delivered by us; false where that cannot be, and its machine has to wait. */
  takeOver(): Promise<boolean>;
}

/** As the guest is answered. */
export interface Answered {
  readonly statusCode?: number | undefined;
  readonly headers: AnswerHead['headers'];
}

/** Resolves when the guest has its answer, or has gone. Rejects only where the proxy itself is broken. */
export async function passOn(call: CheckedCall, services: ProxyServices): Promise<void> {
  await new Passage(call, services).run();
}

class Passage {
  readonly #call: CheckedCall;
  readonly #services: ProxyServices;
  readonly #startedAt: number;
  #body: Buffer | 'streamed';
  #exchange: Exchange | null = null;
  /** Null where it has not been held yet: most calls never are. */
  #hold: Hold | null = null;
  #guestGone = false;
  #firstByteMs: number | null = null;
  #tries = 0;
  /** A try that failed may have reached GitLab all the same. */
  #isUncertain = false;

  constructor(call: CheckedCall, services: ProxyServices) {
    this.#call = call;
    this.#services = services;
    this.#startedAt = services.monotonic();
    const { incoming, route } = call;
    const whole = isWhole(incoming) ? incoming.body : undefined;
    this.#body = call.body ?? whole ?? (route.handling === 'download' ? NOTHING : 'streamed');
  }

  async run(): Promise<void> {
    const { outgoing } = this.#call;
    const onClose = (): void => {
      this.#guestGone = true;
      this.#exchange?.abort();
      this.#hold?.stop();
    };
    outgoing.once('close', onClose);
    try {
      if (outgoing.destroyed) return;
      await this.#tryUntilAnswered();
    } finally {
      outgoing.off('close', onClose);
      this.#hold?.end();
    }
  }

  async #tryUntilAnswered(): Promise<void> {
    const { health } = this.#services;
    const { route, lease } = this.#call;
    // Cut off in the middle, a download is its runner's to repeat: at once, and only twice.
    const isAgain = route.handling === 'download' && hasBrokenTransfer(lease);
    let failed: AnswerHead | 'unreachable' | null = isAgain ? 'unreachable' : null;
    for (;;) {
      if (failed !== null || !health.isOpen) {
        if (await this.#takeOver()) return;
        const waited = await this.#wait(failed);
        if (this.#guestGone) return this.#report(0);
        if (waited !== 'go') return this.#answerWaiting(waited === 'too-many');
      }
      if (this.#body === 'streamed' && !(await this.#keepBody())) return this.#report(0);
      const reply = await this.#try();
      if (this.#guestGone) return this.#report(0);
      if (reply.answer !== undefined && !isOutAnswer(route.handling, reply.answer)) {
        if (showsGitlab(reply.answer)) health.answered();
        this.#hold?.leaveGate();
        return this.#handDown(reply.answer);
      }
      failed = this.#noteFailure(reply);
      if (this.#exchange?.hasReadBody) return this.#answerBroken(failed);
    }
  }

  /** A trace of the usual size is read whole, so that it can be sent again. False: the guest has gone. */
  async #keepBody(): Promise<boolean> {
    const { route, incoming } = this.#call;
    if (route.handling !== 'trace') return true;
    const length = Number(incoming.headers['content-length'] ?? Number.NaN);
    if (!(length <= MAX_REPEATED_BYTES)) return true;
    if (!this.#holding().keep(length)) return true;
    try {
      const body = await readBody(incoming, MAX_REPEATED_BYTES, this.#services.clock);
      if (body !== 'too-large') this.#body = body;
      return true;
    } catch (error) {
      if (incoming.destroyed) return false;
      throw error;
    }
  }

  async #try(): Promise<Reply> {
    this.#tries += 1;
    const sentAt = this.#services.monotonic();
    const reply = await this.#send();
    if (reply.answer !== undefined) this.#firstByteMs = this.#services.monotonic() - sentAt;
    return reply;
  }

  #send(): Promise<Reply> {
    const { route, path, headers } = this.#call;
    const { upstream, timings } = this.#services;
    const { stallMs } = timings;
    const { method, handling } = route;
    const fresh = this.#tries > 1;
    const common = { method, path, headers, fresh, answerTimeoutMs: this.#answerTimeoutMs() };
    const body = this.#body;
    if (body !== 'streamed' && handling !== 'download') {
      const small = new SmallExchange(upstream.call({ ...common, body, stallMs }), body.length);
      this.#exchange = small;
      return small.reply();
    }
    const { incoming, outgoing } = streamsOf(this.#call);
    const streamed = new StreamedExchange(upstream.request(common), incoming, outgoing);
    this.#exchange = streamed;
    return streamed.send(handling === 'download' ? 'none' : 'streamed', stallMs);
  }

  #answerTimeoutMs(): number {
    const { downloadTimeoutMs, forwardTimeoutMs, updateTimeoutMs } = this.#services.timings;
    const { handling } = this.#call.route;
    if (handling === 'upload') return forwardTimeoutMs;
    const limitMs = handling === 'download' ? downloadTimeoutMs : updateTimeoutMs;
    return Math.min(limitMs, Math.max(this.#patienceMs(), MIN_TRY_MS));
  }

  #noteFailure(reply: Reply): AnswerHead | 'unreachable' {
    const { health, describeFailure } = this.#services;
    this.#exchange?.abort();
    this.#hold?.leaveGate();
    this.#isUncertain = true;
    const reason =
      reply.answer === undefined
        ? describeFailure(reply.error)
        : `it answers ${reply.answer.statusCode}`;
    if (reply.answer === undefined || isSuspicious(reply.answer)) health.suspect(reason);
    logCall(this.#call, this.#services, 'warn', ' did not get through to GitLab', { reason });
    return reply.answer ?? 'unreachable';
  }

  /** GitLab has the whole log, and we the final update: its machine need not wait for an outage's end. */
  async #takeOver(): Promise<boolean> {
    const { final } = this.#call;
    if (final === undefined || !(await final.takeOver())) return false;
    this.#answer(plain(200));
    return true;
  }

  /** Until GitLab answers again; after a failure of this call alone, with a delay of its own. */
  async #wait(failed: AnswerHead | 'unreachable' | null): Promise<Waited> {
    const { incoming } = this.#call;
    const patienceMs = this.#patienceMs();
    if (patienceMs <= 0) return 'too-long';
    const hold = this.#holding();
    // What came whole with its head counts once it has to wait.
    if (isWhole(incoming) && !hold.keep(incoming.body.length)) return 'too-many';
    return hold.wait(patienceMs, failed === null ? null : () => this.#delayMs(failed));
  }

  #holding(): Hold {
    this.#hold ??= new Hold(this.#call.lease.runnerName, this.#services);
    return this.#hold;
  }

  /** What is left before the runner's own patience ends. */
  #patienceMs(): number {
    const { timings } = this.#services;
    const passedMs = this.#services.monotonic() - this.#startedAt;
    if (this.#exchange?.hasReadBody !== true) return timings.holdLimitMs - passedMs;
    // A runner that still sends does not wait for an answer yet.
    return Math.min(timings.uploadLimitMs - passedMs, timings.holdLimitMs);
  }

  #delayMs(failed: AnswerHead | 'unreachable'): number {
    const { timings } = this.#services;
    const isAgain = this.#tries === 0;
    const ownMs =
      isAgain || this.#exchange?.hasReadBody === true
        ? transferDelayMs(this.#call.lease, isAgain, timings)
        : Math.min(timings.repeatMs * 2 ** Math.min(this.#tries - 1, 20), timings.repeatCapMs);
    const wantedMs =
      failed === 'unreachable' ? undefined : readRetryAfter(failed.headers[HEADERS.retryAfter]);
    return Math.max(ownMs, Math.min(wantedMs ?? 0, timings.retryAfterCapMs));
  }

  async #handDown(answer: AnswerHead): Promise<void> {
    const { route, lease, incoming, outgoing, final, onAnswer } = this.#call;
    const exchange = this.#exchange as Exchange;
    const collected = route.handling === 'download' ? null : exchange.collect();
    const own =
      this.#isUncertain && this.#body !== 'streamed'
        ? lostAnswer(answer, incoming.headers, this.#body, final?.state)
        : null;
    await onAnswer({ statusCode: own?.status ?? answer.statusCode, headers: answer.headers });
    if (route.handling === 'upload') noteWholeTransfer(lease);
    if (own !== null) return this.#answer(own);
    const isEarly = this.#body === 'streamed' && !incoming.complete;
    const status = answer.statusCode ?? 502;
    const { url } = this.#services.upstream;
    const headers = rawHeadersDown(route.name, answer.rawHeaders, url, this.#call.path);
    if (isEarly) headers.push('Connection', 'close');
    if (collected === null) {
      outgoing.writeHead(status, answer.statusMessage ?? '', headers);
      this.#noteTransfer(await (exchange as StreamedExchange).relay());
    } else {
      const { body, isWhole } = await collected;
      if (this.#guestGone) return this.#report(0);
      const fitting = isWhole ? headers : withLength(headers, body.length);
      outgoing.writeHead(status, answer.statusMessage ?? '', fitting);
      if (isEarly) exchange.abort();
      if (isEarly) endEarly(streamsOf(this.#call), body, this.#services.clock);
      else if (body.length > 0) outgoing.end(body);
      // Not even an empty one, where the status has none: Node would throw.
      else outgoing.end();
    }
    this.#report(status, answer.headers[HEADERS.requestId]?.toString());
  }

  /** How a download ended whose head the guest has got. */
  #noteTransfer(end: 'whole' | 'cut' | 'unwanted'): void {
    const { lease } = this.#call;
    if (end === 'whole') noteWholeTransfer(lease);
    if (end !== 'cut') return;
    const reason = 'it broke off in the middle';
    noteBrokenTransfer(lease);
    this.#services.health.suspect(reason);
    logCall(this.#call, this.#services, 'warn', ' did not get through whole', { reason });
  }

  #answerWaiting(isCrowded: boolean): void {
    const { route, incoming, final } = this.#call;
    this.#answer(waitingAnswer(route.handling, incoming.headers, final !== undefined, isCrowded));
  }

  /** The rest of its body cannot be had without the beginning: its runner has to send it again. */
  async #answerBroken(failed: AnswerHead | 'unreachable'): Promise<void> {
    const { lease, route, incoming } = this.#call;
    if (route.handling === 'upload') noteBrokenTransfer(lease);
    await this.#wait(failed);
    if (this.#guestGone) return this.#report(0);
    this.#answer(
      route.handling === 'trace'
        ? waitingAnswer(route.handling, incoming.headers, false)
        : tryAgain(),
    );
  }

  #answer(answer: OwnAnswer): void {
    giveAnswer(this.#call, answer, this.#services.clock);
    this.#report(answer.status);
  }

  /** `status`: 0 where the guest had gone before. */
  #report(status: number, requestId?: string): void {
    const { lease, route } = this.#call;
    const call: ForwardedCall = {
      route: route.name,
      runner: lease.runner,
      jobId: lease.facts.id,
      status,
      bytesUp: this.#exchange?.bytesUp ?? 0,
      bytesDown: this.#exchange?.bytesDown ?? 0,
      durationMs: this.#services.monotonic() - this.#startedAt,
      heldMs: this.#hold?.waitedMs ?? 0,
      firstByteMs: this.#firstByteMs,
      repeats: Math.max(0, this.#tries - 1),
      requestId: requestId?.slice(0, MAX_REQUEST_ID),
    };
    this.#services.forwarded(call);
    logCall(this.#call, this.#services, 'info', `: ${status}`, call);
  }
}

const NOTHING = Buffer.alloc(0);

/** GitLab's has 26 characters; what stands before it might take a guest's own word for one. */
const MAX_REQUEST_ID = 100;

/** The last try before a guest's patience ends is given at least so long. */
const MIN_TRY_MS = 1000;
