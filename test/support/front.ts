/** What stands before a GitLab simulator: passes everything on but calls of the user agent `front NAME`, which a test answers. */

import http, { type IncomingMessage, type ServerResponse } from 'node:http';
import net from 'node:net';
import type { TestContext } from 'node:test';
import type { GitlabSimulator } from '../../fixtures/gitlab/index.ts';
import { startServer } from './http-server.ts';
import { createRig, type Rig, type RigOptions } from './rig.ts';

export type FrontHandler = (request: IncomingMessage, response: ServerResponse) => void;

export interface FrontRig {
  readonly rig: Rig;
  /** GitLab's address as the plugin has it. */
  readonly url: string;
  answer(name: string, handler: FrontHandler): void;
}

/** A rig whose plugin reaches its GitLab through such a front; its host runs. */
export async function startFrontRig(t: TestContext, options: RigOptions = {}): Promise<FrontRig> {
  const handlers = new Map<string, FrontHandler>();
  let gitlab: GitlabSimulator | undefined;
  const { url, server } = await startServer(t, (request, response) => {
    const name = /^front (.+)$/.exec(request.headers['user-agent'] ?? '')?.[1];
    const handler = handlers.get(name ?? '');
    if (handler !== undefined) {
      handler(request, response);
      return;
    }
    const target = new URL(gitlab?.url ?? '');
    const onwards = http.request({
      host: target.hostname,
      port: target.port,
      path: request.url,
      method: request.method,
      headers: request.headers,
      agent: false,
    });
    onwards.on('error', () => response.destroy());
    onwards.on('response', (answer) => {
      response.writeHead(answer.statusCode ?? 502, answer.headers);
      answer.pipe(response);
    });
    request.pipe(onwards);
  });
  server.requestTimeout = 0;
  const base = `${url}/gitlab`;
  const rig = await createRig(t, { ...options, section: { ...options.section, url: base } });
  gitlab = rig.gitlab;
  await rig.start();
  return { rig, url: base, answer: (name, handler) => void handlers.set(name, handler) };
}

/** Sends bytes over a connection of its own, and returns what came back until it was closed. */
export function exchangeRaw(url: string, request: string | Buffer): Promise<Buffer> {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = net.connect(Number(port), hostname, () => socket.write(request));
    const chunks: Buffer[] = [];
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.once('error', reject);
    socket.once('close', () => resolve(Buffer.concat(chunks)));
  });
}
