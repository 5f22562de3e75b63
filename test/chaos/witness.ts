/** Hears from the jobs' scripts, whatever becomes of their logs: who began, who came to its end. */

import net from 'node:net';

export interface Seen {
  /** How often its script began. */
  began: number;
  /** The exit code that its script was about to end with; null: it never came so far. */
  ended: number | null;
}

export interface Witness {
  readonly port: number;
  of(jobId: number): Seen;
  close(): Promise<void>;
}

export async function startWitness(): Promise<Witness> {
  const seen = new Map<number, Seen>();
  const of = (jobId: number): Seen => {
    const known = seen.get(jobId) ?? { began: 0, ended: null };
    seen.set(jobId, known);
    return known;
  };
  const sockets = new Set<net.Socket>();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    socket.on('error', () => socket.destroy());
    let text = '';
    socket.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      const line = /^(\d+) (began|ended)(?: (\d+))?\n/.exec(text);
      if (line === null) return;
      const job = of(Number(line[1]));
      if (line[2] === 'began') job.began += 1;
      else job.ended = Number(line[3]);
      // The script goes on only once this is counted.
      socket.end('ok\n');
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  return {
    port: (server.address() as net.AddressInfo).port,
    of,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        for (const socket of sockets) socket.destroy();
      }),
  };
}
