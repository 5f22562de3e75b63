/** A process that speaks as some of the machines do: a log line's worth each second, an artifact now and then. */

import http from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { PatchConnection, type Vm } from '../proxy/load.ts';

/** The same job, called through the host and at GitLab itself. */
export interface Job {
  readonly host: Vm;
  readonly direct: Vm;
}

export interface Phase {
  readonly way: keyof Job;
  readonly jobs: readonly Job[];
  readonly forMs: number;
}

/** Milliseconds of each call. */
export interface Sample {
  readonly patches: readonly number[];
  readonly uploads: readonly number[];
  /** The jobs with their logs as long as they are now. */
  readonly jobs: readonly Job[];
}

const PATCH_EVERY_MS = 1000;
const ARTIFACT = Buffer.concat([
  Buffer.from(
    '--x\r\nContent-Disposition: form-data; name="file"; filename="artifacts.zip"\r\nContent-Type: application/octet-stream\r\n\r\n',
  ),
  Buffer.alloc(1024 * 1024),
  Buffer.from('\r\n--x--\r\n'),
]);

process.on('message', async (phase: Phase) => {
  const vms = phase.jobs.map((job) => ({ ...job[phase.way] }));
  // Runners keep their connections, so making them is not measured.
  const connections = await Promise.all(vms.map((vm) => PatchConnection.open(vm.port)));
  const patches: number[] = [];
  const uploads: number[] = [];
  await Promise.all(
    vms.map(async (vm, index) => {
      const { forMs } = phase;
      const share = index / vms.length;
      const connection = connections[index] as PatchConnection;
      await connection.patch(vm);
      // Spread over the phase: machines do not know of each other.
      const uploaded = sleep(share * forMs).then(async () => void uploads.push(await upload(vm)));
      const begin = performance.now() + share * PATCH_EVERY_MS;
      for (let turn = 0; turn < forMs / PATCH_EVERY_MS; turn += 1) {
        await sleep(Math.max(0, begin + turn * PATCH_EVERY_MS - performance.now()));
        patches.push(await connection.patch(vm));
      }
      await uploaded;
      connection.close();
    }),
  );
  const jobs = phase.jobs.map((job, index) => {
    const logBytes = vms[index]?.logBytes ?? 0;
    return { host: { ...job.host, logBytes }, direct: { ...job.direct, logBytes } };
  });
  process.send?.({ patches, uploads, jobs } satisfies Sample);
});
process.on('disconnect', () => process.exit());

function upload(vm: Vm): Promise<number> {
  const startedAt = performance.now();
  return new Promise((resolve, reject) => {
    const request = http.request(
      {
        host: '127.0.0.1',
        port: vm.port,
        method: 'POST',
        path: `${vm.path}/artifacts?artifact_type=archive&artifact_format=zip`,
        headers: {
          'job-token': vm.token,
          'content-type': 'multipart/form-data; boundary=x',
          'transfer-encoding': 'chunked',
        },
      },
      (response) => {
        response.resume();
        response.once('end', () => {
          if (response.statusCode === 201) resolve(performance.now() - startedAt);
          else reject(new Error(`an upload: ${response.statusCode}`));
        });
      },
    );
    request.once('error', reject);
    request.end(ARTIFACT);
  });
}
