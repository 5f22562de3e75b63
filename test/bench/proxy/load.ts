/** What the machines of the proxy's benchmark do, over plain sockets. */

import { once } from 'node:events';
import net, { type Socket } from 'node:net';

/** A job's machine, as one contender is to be called for it. */
export interface Vm {
  readonly port: number;
  /** `/<vm token>/api/v4/jobs/<id>`, or without the VM token where nobody asks for one. */
  readonly path: string;
  readonly token: string;
  logBytes: number;
}

/** As the official runner's: it copies bodies in pieces of this size. */
const CHUNK = Buffer.concat([Buffer.from('8000\r\n'), Buffer.alloc(0x8000), Buffer.from('\r\n')]);
const CHUNK_BYTES = 0x8000;
const CHUNKS_A_WRITE = 8;
const BLOCK = Buffer.concat(Array.from({ length: CHUNKS_A_WRITE }, () => CHUNK));
const BLOCK_BYTES = CHUNKS_A_WRITE * CHUNK_BYTES;
const HEAD_END = Buffer.from('\r\n\r\n');
const READ_BUFFER_BYTES = 1024 * 1024;

const PATCH_BYTES = 2048;
const LOG = `${'x'.repeat(PATCH_BYTES - 1)}\n`;

function requestHead(vm: Vm, method: string, suffix: string, headers: string): string {
  return `${method} ${vm.path}${suffix} HTTP/1.1\r\nHost: 127.0.0.1:${vm.port}\r\nUser-Agent: gitlab-runner 18.5.0\r\nJOB-TOKEN: ${vm.token}\r\n${headers}\r\n`;
}

async function connect(port: number): Promise<Socket> {
  const socket = net.connect({ port, host: '127.0.0.1', noDelay: true });
  await once(socket, 'connect');
  return socket;
}

function statusOf(head: string): number {
  return Number(head.slice(9, 12));
}

/** A chunked artifact upload of that size, in whole blocks, or until the signal; resolves with its bytes. */
export async function upload(vm: Vm, bytes: number, signal?: AbortSignal): Promise<number> {
  const socket = await connect(vm.port);
  const answered = readSmallAnswer(socket);
  socket.write(
    requestHead(
      vm,
      'POST',
      '/artifacts',
      'Content-Type: multipart/form-data; boundary=x\r\nTransfer-Encoding: chunked\r\n',
    ),
  );
  let sent = 0;
  const write = (): void => {
    while (sent < bytes && signal?.aborted !== true) {
      sent += BLOCK_BYTES;
      if (!socket.write(BLOCK)) {
        socket.once('drain', write);
        return;
      }
    }
    socket.write('0\r\n\r\n');
  };
  write();
  const { status, body } = await answered;
  socket.destroy();
  const received = status === 201 ? Number(/"received":(\d+)/.exec(body)?.[1]) : 0;
  if (received < sent) throw new Error(`an upload of ${sent} bytes: ${status} ${body}`);
  return sent;
}

function readSmallAnswer(socket: Socket): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    let text = '';
    socket.on('error', reject);
    socket.on('close', () => reject(new Error(`the connection was closed after: ${text}`)));
    socket.on('data', (data) => {
      text += data.toString('latin1');
      const end = text.indexOf('\r\n\r\n');
      const length = /\r\ncontent-length: *(\d+)/i.exec(text)?.[1];
      if (end < 0 || text.length < end + 4 + Number(length ?? 0)) return;
      resolve({ status: statusOf(text), body: text.slice(end + 4) });
    });
  });
}

export interface DownloadPace {
  readonly bytesPerSecond: number;
  /** Before the first byte is read. */
  readonly stallMs: number;
}

/** Resolves with the bytes of the artifact. */
export function download(vm: Vm, pace?: DownloadPace): Promise<number> {
  return new Promise((resolve, reject) => {
    let expected: number | null = null;
    let received = 0;
    let head = '';
    const startedAt = performance.now() + (pace?.stallMs ?? 0);
    const onData = (data: Buffer): void => {
      let body = data.length;
      if (expected === null) {
        head += data.toString('latin1');
        const end = head.indexOf('\r\n\r\n');
        if (end < 0) return;
        body = head.length - end - HEAD_END.length;
        const length = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1];
        if (statusOf(head) !== 200 || length === undefined) {
          socket.destroy(new Error(`a download: ${head.slice(0, end)}`));
          return;
        }
        expected = Number(length);
      }
      received += body;
      if (received >= expected) {
        socket.destroy();
        resolve(received);
      } else if (pace !== undefined) {
        const aheadMs = startedAt + (received / pace.bytesPerSecond) * 1000 - performance.now();
        if (aheadMs < 5) return;
        socket.pause();
        setTimeout(() => socket.resume(), aheadMs);
      }
    };
    const buffer = Buffer.allocUnsafe(READ_BUFFER_BYTES);
    const socket = net.connect({
      port: vm.port,
      host: '127.0.0.1',
      onread: {
        buffer,
        callback(length) {
          onData(buffer.subarray(0, length));
          return true;
        },
      },
    });
    socket.on('error', reject);
    socket.on('end', () => reject(new Error(`a download broke off after ${received} bytes`)));
    socket.write(requestHead(vm, 'GET', '/artifacts', ''));
  });
}

/** One connection on which one log `PATCH` after the other is made, each awaited. */
export class PatchConnection {
  readonly #socket: Socket;
  #text = '';
  #call: PromiseWithResolvers<void> | null = null;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (data) => this.#onData(data.toString('latin1')));
    socket.on('error', (error) => this.#call?.reject(error));
    socket.on('close', () => this.#call?.reject(new Error('the connection was closed')));
  }

  static async open(port: number): Promise<PatchConnection> {
    return new PatchConnection(await connect(port));
  }

  /** Resolves with the milliseconds until the answer. */
  async patch(vm: Vm): Promise<number> {
    const end = vm.logBytes + PATCH_BYTES;
    const head = requestHead(
      vm,
      'PATCH',
      '/trace',
      `Content-Type: text/plain\r\nContent-Range: ${vm.logBytes}-${end - 1}\r\nContent-Length: ${PATCH_BYTES}\r\n`,
    );
    vm.logBytes = end;
    this.#call = Promise.withResolvers();
    const at = performance.now();
    this.#socket.write(head + LOG, 'latin1');
    await this.#call.promise;
    return performance.now() - at;
  }

  close(): void {
    this.#socket.destroy();
  }

  #onData(data: string): void {
    this.#text += data;
    const end = this.#text.indexOf('\r\n\r\n');
    if (end < 0) return;
    const length = /\r\ncontent-length: *(\d+)\r\n/i.exec(this.#text)?.[1];
    if (this.#text.length < end + HEAD_END.length + Number(length ?? 0)) return;
    const answer = this.#text;
    this.#text = '';
    if (statusOf(answer) === 202 && length !== undefined) this.#call?.resolve();
    else this.#call?.reject(new Error(`a PATCH: ${answer}`));
  }
}

/** A connection for each of the VMs, on which it has spoken: runners keep theirs, so making them is not measured. */
async function openConnections(vms: readonly Vm[]): Promise<PatchConnection[]> {
  return Promise.all(
    vms.map(async (vm) => {
      const connection = await PatchConnection.open(vm.port);
      await connection.patch(vm);
      return connection;
    }),
  );
}

export interface FullSpeed {
  readonly vms: readonly Vm[];
  readonly connections: number;
  readonly forMs: number;
}

/** Each connection is as busy as it can be, with VMs of its own. Resolves with all latencies, in ms. */
export async function patchAtFullSpeed(
  { vms, connections, forMs }: FullSpeed,
  begin: () => Promise<void>,
): Promise<number[]> {
  const open = await openConnections(vms.slice(0, connections));
  const latencies: number[] = [];
  await begin();
  const until = performance.now() + forMs;
  try {
    await Promise.all(
      open.map(async (connection, first) => {
        for (let turn = first; performance.now() < until; turn += connections) {
          const vm = vms[turn % vms.length];
          if (vm !== undefined) latencies.push(await connection.patch(vm));
        }
      }),
    );
  } finally {
    for (const connection of open) connection.close();
  }
  return latencies;
}

export interface ManyVms {
  readonly vms: readonly Vm[];
  readonly uploading: number;
  readonly intervalMs: number;
  readonly forMs: number;
}

/** Each VM has a `PATCH` once an interval; some upload at full speed. Resolves with the `PATCH` latencies and uploaded bytes. */
export async function runManyVms(
  { vms, uploading, intervalMs, forMs }: ManyVms,
  begin: () => Promise<void>,
): Promise<{ latencies: number[]; bytes: number }> {
  const open = await openConnections(vms);
  const over = new AbortController();
  const latencies: number[] = [];
  await begin();
  const uploads = vms
    .slice(0, uploading)
    .map((vm) => upload(vm, Number.POSITIVE_INFINITY, over.signal));
  const patch = async (vm: Vm, index: number): Promise<void> => {
    await sleep((index / vms.length) * intervalMs);
    for (let left = Math.floor(forMs / intervalMs); left > 0; left -= 1) {
      const startedAt = performance.now();
      latencies.push((await open[index]?.patch(vm)) ?? 0);
      await sleep(startedAt + intervalMs - performance.now());
    }
  };
  const patched = Promise.all(vms.map(patch)).finally(() => {
    over.abort();
    for (const connection of open) connection.close();
  });
  const [uploaded] = await Promise.all([Promise.all(uploads), patched]);
  return { latencies, bytes: uploaded.reduce((sum, one) => sum + one, 0) };
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, Math.max(0, ms)));
}
