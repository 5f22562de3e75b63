/**
 * GitLab's place in the proxy's benchmark, a process of its own: assigns jobs, swallows and makes bodies. It
 * reads sockets without an HTTP parser, so that it is not what is measured.
 */

import net, { type Socket } from 'node:net';

/** What the benchmark tells it. */
export interface UpstreamSettings {
  readonly jobs: number;
  readonly downloadBytes: number;
  /** Of each upload, at most; null: as fast as it comes. */
  readonly readBytesPerSecond: number | null;
}

export interface UpstreamReady {
  readonly port: number;
}

let settings: UpstreamSettings = { jobs: 0, downloadBytes: 0, readBytesPerSecond: null };
let assigned = 0;

const BLOCK = Buffer.alloc(256 * 1024);
const HEAD_END = Buffer.from('\r\n\r\n');
/** Bodies hold zeros only: nothing else in a chunked one looks like its end. */
const BODY_END = Buffer.from('0\r\n\r\n');

interface Head {
  readonly method: string;
  readonly path: string;
  readonly contentLength: number | null;
  /** After the last byte that a trace call brings. */
  readonly logBytes: number;
}

function parseHead(text: string): Head {
  const [method = '', path = ''] = text.split(' ', 2);
  const length = /\r\ncontent-length: *(\d+)/i.exec(text)?.[1];
  const end = /\r\ncontent-range: *\d+-(\d+)/i.exec(text)?.[1];
  const chunked = /\r\ntransfer-encoding: *chunked/i.test(text);
  return {
    method,
    path,
    contentLength: chunked ? null : Number(length ?? 0),
    logBytes: Number(end ?? -1) + 1,
  };
}

function serve(socket: Socket): void {
  let head: Head | null = null;
  let pending: Buffer = Buffer.alloc(0);
  let received = 0;
  let tail: Buffer = Buffer.alloc(0);
  let startedAt = 0;
  const onBody = (data: Buffer): void => {
    if (head === null) return;
    received += data.length;
    let complete: boolean;
    if (head.contentLength === null) {
      tail = data.length >= 5 ? data.subarray(-5) : Buffer.concat([tail, data]).subarray(-5);
      complete = tail.equals(BODY_END);
      if (!complete) slowDown(socket, received, startedAt);
    } else {
      complete = received >= head.contentLength;
    }
    if (!complete) return;
    const done = head;
    head = null;
    answer(socket, done, received);
  };
  socket.setNoDelay(true);
  socket.on('error', () => socket.destroy());
  socket.on('data', (data) => {
    if (head !== null) return onBody(data);
    const all = pending.length === 0 ? data : Buffer.concat([pending, data]);
    const end = all.indexOf(HEAD_END);
    if (end < 0) {
      pending = all;
      return;
    }
    pending = Buffer.alloc(0);
    head = parseHead(all.toString('latin1', 0, end));
    received = 0;
    tail = Buffer.alloc(0);
    startedAt = performance.now();
    onBody(all.subarray(end + HEAD_END.length));
  });
}

/** Reads on only when so much may have been read. */
function slowDown(socket: Socket, received: number, startedAt: number): void {
  if (settings.readBytesPerSecond === null) return;
  const dueMs = (received / settings.readBytesPerSecond) * 1000;
  const aheadMs = startedAt + dueMs - performance.now();
  if (aheadMs < 5) return;
  socket.pause();
  setTimeout(() => socket.resume(), aheadMs);
}

function answer(socket: Socket, head: Head, received: number): void {
  const { method, path } = head;
  if (method === 'PATCH') {
    socket.write(
      `HTTP/1.1 202 Accepted\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 0\r\nJob-Status: running\r\nRange: 0-${head.logBytes}\r\nX-GitLab-Trace-Update-Interval: 3\r\nX-Request-Id: 01HZX0000000000000000000\r\n\r\n`,
    );
  } else if (method === 'GET') {
    download(socket, settings.downloadBytes);
  } else if (path.endsWith('/jobs/request')) {
    if (assigned === settings.jobs) respond(socket, '204 No Content', '');
    else respond(socket, '201 Created', JSON.stringify(payload(++assigned)));
  } else if (path.endsWith('/artifacts')) {
    respond(socket, '201 Created', JSON.stringify({ received }));
  } else {
    respond(socket, '200 OK', 'true');
  }
}

function respond(socket: Socket, status: string, body: string): void {
  socket.write(
    `HTTP/1.1 ${status}\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\nJob-Status: running\r\n\r\n${body}`,
  );
}

function download(socket: Socket, bytes: number): void {
  socket.write(
    `HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: ${bytes}\r\n\r\n`,
  );
  let left = bytes;
  const write = (): void => {
    while (left > 0) {
      const block = left < BLOCK.length ? BLOCK.subarray(0, left) : BLOCK;
      left -= block.length;
      if (!socket.write(block) && left > 0) {
        socket.once('drain', write);
        return;
      }
    }
  };
  write();
}

function payload(id: number): object {
  return {
    id,
    token: `glcbt-64_${'x'.repeat(16)}${id}`,
    job_info: { id, name: `job ${id}`, project_id: 1, project_full_path: 'lab/bench' },
    git_info: { repo_url: 'http://127.0.0.1/lab/bench.git', ref: 'main' },
    runner_info: { timeout: 3600 },
    variables: [],
    steps: [],
    dependencies: [],
    features: { failure_reasons: [] },
  };
}

process.on('message', (message: UpstreamSettings) => {
  settings = message;
  process.send?.('set');
});
process.on('disconnect', () => process.exit());
const server = net.createServer(serve);
server.listen(0, '127.0.0.1', 4096, () => {
  const ready: UpstreamReady = { port: (server.address() as net.AddressInfo).port };
  process.send?.(ready);
});
