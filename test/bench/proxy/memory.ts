/** How a process grows while large bodies pass it whose receivers are slow. */

import type { Contender, Upstream } from './contenders.ts';
import { download, upload } from './load.ts';
import { forgetPeak, usageOf } from './usage.ts';

const BODY_BYTES = 2 * 1024 ** 3;
const EACH_WAY = 4;
/** Far below what a sender could do, and yet 16 GiB are to pass. */
const RECEIVED_BYTES_PER_SECOND = 64 * 1024 ** 2;
/** So long nobody reads, while the senders go on. */
const STALL_MS = 2000;

export const LOAD: string = `${2 * EACH_WAY} × 2 GiB at once, slow receivers`;

/** Resolves with the peak of resident memory above what it was before, in MiB. */
export async function measureGrowth(contender: Contender, upstream: Upstream): Promise<number> {
  const { pid, vms } = contender;
  if (pid === null) throw new Error(`${contender.name} has no process`);
  await upstream.set({
    jobs: vms.length,
    downloadBytes: BODY_BYTES,
    readBytesPerSecond: RECEIVED_BYTES_PER_SECOND,
  });
  await forgetPeak(pid);
  const before = await usageOf(pid);
  const pace = { bytesPerSecond: RECEIVED_BYTES_PER_SECOND, stallMs: STALL_MS };
  await Promise.all(
    vms
      .slice(0, 2 * EACH_WAY)
      .map((vm, index) => (index < EACH_WAY ? download(vm, pace) : upload(vm, BODY_BYTES))),
  );
  const after = await usageOf(pid);
  return (after.peakRssBytes - before.rssBytes) / 1024 ** 2;
}
