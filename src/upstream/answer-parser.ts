/** GitLab's answer to a small call, read from its connection byte by byte: strictly, as nothing lenient is needed. */

import type { IncomingHttpHeaders } from 'node:http';
import { MAX_COLLECTED_BYTES } from '../lib/collect.ts';

/** First line and headers of an answer. */
export interface AnswerHead {
  readonly statusCode: number;
  readonly statusMessage: string;
  /** By lower-case name; what came more than once, joined by commas. */
  readonly headers: IncomingHttpHeaders;
  /** Names and values in turns, as they came. */
  readonly rawHeaders: string[];
}

/** A head of more bytes is none that GitLab sends, nor what stands before it. */
export const MAX_HEAD_BYTES: number = 64 * 1024;

/** Of a chunk: its size in hexadecimal, and extensions, which mean nothing to us. */
const MAX_CHUNK_LINE_BYTES = 256;

const STATUS_LINE = /^HTTP\/1\.([01]) ([1-5][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?$/;
const HEADER = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)$/;
/** Around a value. Looked for from the beginning of each run of blanks only: from everywhere in it would take seconds. */
const BLANKS = /^[ \t]+|(?<![ \t])[ \t]+$/g;
const CHUNK_LINE = /^0*([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?$/;
const LENGTH = /^[0-9]{1,15}$/;

/** These have none, whatever their headers say. */
const BODILESS = new Set([204, 304]);

type Reading =
  | { readonly what: 'head' }
  | { readonly what: 'length'; left: number }
  | { readonly what: 'chunk-line' | 'chunk-end' | 'trailer' }
  | { readonly what: 'chunk'; left: number }
  | { readonly what: 'until-close' }
  | { readonly what: 'done' };

/** One answer. Throws an error where the bytes are none. */
export class AnswerParser {
  head: AnswerHead | null = null;
  /** The connection may serve another call, once this answer is whole. */
  keepsConnection = false;
  readonly #body: Buffer[] = [];
  #bodyBytes = 0;
  readonly #maxBytes: number;
  #reading: Reading = { what: 'head' };
  #rest: Buffer = NOTHING;

  /** Of a longer body, the beginning is kept. */
  constructor(maxBytes: number = MAX_COLLECTED_BYTES) {
    this.#maxBytes = maxBytes;
  }

  /** It has come to its end, and all of it was kept. */
  get isWhole(): boolean {
    return this.#reading.what === 'done' && !this.isTooLong;
  }

  /** The body goes on where it is too long to be kept. */
  get isTooLong(): boolean {
    return this.#bodyBytes > this.#maxBytes;
  }

  get body(): Buffer {
    const [first = NOTHING] = this.#body;
    return this.#body.length > 1 ? Buffer.concat(this.#body) : first;
  }

  push(data: Buffer): void {
    let rest = this.#rest.length === 0 ? data : Buffer.concat([this.#rest, data]);
    for (;;) {
      const used = this.#step(rest);
      if (used === null) break;
      rest = rest.subarray(used);
      if (rest.length === 0 || this.isTooLong) break;
    }
    // What follows the answer belongs to nothing.
    if (this.isWhole && rest.length > 0) this.keepsConnection = false;
    this.#rest = rest;
  }

  /** GitLab has closed its side: the end of an answer that says so of itself. */
  close(): void {
    if (this.#reading.what === 'until-close') this.#reading = { what: 'done' };
    this.keepsConnection = false;
  }

  /** How many bytes were used; null: more are needed, or none any more. */
  #step(rest: Buffer): number | null {
    const reading = this.#reading;
    switch (reading.what) {
      case 'head':
        return this.#readHead(rest);
      case 'length':
      case 'chunk': {
        const part = rest.length <= reading.left ? rest : rest.subarray(0, reading.left);
        this.#keep(part);
        reading.left -= part.length;
        if (reading.left === 0) {
          this.#reading = { what: reading.what === 'chunk' ? 'chunk-end' : 'done' };
        }
        return part.length;
      }
      case 'until-close':
        this.#keep(rest);
        return rest.length;
      case 'chunk-line':
      case 'chunk-end':
      case 'trailer':
        return this.#readLine(rest, reading.what);
      case 'done':
        return null;
      default:
        return reading satisfies never;
    }
  }

  #readHead(rest: Buffer): number | null {
    // It may follow the answer before, and is none of it; a job that comes behind it must not be lost.
    if (rest.indexOf(EMPTY_LINE) === 0) return EMPTY_LINE.length;
    const end = rest.indexOf(HEAD_END);
    if (end > MAX_HEAD_BYTES || (end < 0 && rest.length > MAX_HEAD_BYTES)) throw broken();
    if (end < 0) return null;
    const [first = '', ...lines] = rest.toString('latin1', 0, end).split('\r\n');
    const [, minor, status, statusMessage = ''] = STATUS_LINE.exec(first) ?? [];
    const statusCode = Number(status);
    // Nothing here asks for another protocol.
    if (status === undefined || statusCode === 101) throw broken();
    if (statusCode < 200) return end + HEAD_END.length;
    const rawHeaders: string[] = [];
    const headers: Record<string, string> = {};
    for (const line of lines) {
      const [, name, padded] = HEADER.exec(line) ?? [];
      if (name === undefined || padded === undefined) throw broken();
      const value = padded.replace(BLANKS, '');
      rawHeaders.push(name, value);
      const key = name.toLowerCase();
      headers[key] = headers[key] === undefined ? value : `${headers[key]}, ${value}`;
    }
    this.#reading = bodyOf(statusCode, headers);
    const connection = headers['connection']?.toLowerCase();
    this.keepsConnection = minor === '1' && (connection ?? 'keep-alive') === 'keep-alive';
    if (this.#reading.what === 'until-close') this.keepsConnection = false;
    this.head = { statusCode, statusMessage, headers, rawHeaders };
    return end + HEAD_END.length;
  }

  #readLine(rest: Buffer, what: 'chunk-line' | 'chunk-end' | 'trailer'): number | null {
    const end = rest.indexOf('\r\n');
    if (end < 0) {
      if (rest.length > (what === 'trailer' ? MAX_HEAD_BYTES : MAX_CHUNK_LINE_BYTES)) {
        throw broken();
      }
      return null;
    }
    const line = rest.toString('latin1', 0, end);
    if (what === 'trailer') {
      if (line === '') this.#reading = { what: 'done' };
    } else if (what === 'chunk-end') {
      if (line !== '') throw broken();
      this.#reading = { what: 'chunk-line' };
    } else {
      const [, size] = CHUNK_LINE.exec(line) ?? [];
      if (size === undefined) throw broken();
      const left = Number.parseInt(size, 16);
      this.#reading = left === 0 ? { what: 'trailer' } : { what: 'chunk', left };
    }
    return end + 2;
  }

  #keep(part: Buffer): void {
    this.#bodyBytes += part.length;
    if (!this.isTooLong) this.#body.push(part);
  }
}

function bodyOf(statusCode: number, headers: Readonly<Record<string, string>>): Reading {
  const { 'transfer-encoding': encoding, 'content-length': length } = headers;
  if (encoding !== undefined && (encoding.toLowerCase() !== 'chunked' || length !== undefined)) {
    throw broken();
  }
  if (length !== undefined && !LENGTH.test(length)) throw broken();
  if (BODILESS.has(statusCode) || Number(length) === 0) return { what: 'done' };
  if (encoding !== undefined) return { what: 'chunk-line' };
  return length === undefined ? { what: 'until-close' } : { what: 'length', left: Number(length) };
}

function broken(): Error {
  return new Error('its answer is no HTTP/1.1');
}

const EMPTY_LINE = Buffer.from('\r\n');
const HEAD_END = Buffer.from('\r\n\r\n');
const NOTHING: Buffer = Buffer.alloc(0);
