/** Rigs whose machines are virtual: the micro guest in QEMU. */

import { cp, mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import type { JobRow } from 'forrest-gitlab/contract';
import type { SimJob } from '../../fixtures/gitlab/index.ts';
import { buildMicroGuest, type MicroGuest } from '../../fixtures/guest/micro/micro-guest.ts';
import { isInstalled, QEMU } from '../../fixtures/host/src/drivers/qemu/index.ts';
import { eventually } from './deadline.ts';
import type { Rig, RigOptions } from './rig.ts';

export const SHELL_TEMPLATE: string = path.join(
  import.meta.dirname,
  '../../fixtures/guest/templates/gitlab-shell',
);

/** Software emulation on a busy machine is slow. */
export const BOOT_MS = 150_000;

const guest: MicroGuest | string = isInstalled(QEMU, 'mformat')
  ? await buildMicroGuest({ runner: null }).catch((error: Error) => error.message)
  : 'qemu-system-x86 and mtools are not installed';

/** Why tests in virtual machines cannot run here, or false. */
export const skip: string | false = typeof guest === 'string' ? guest : false;

/** A rig in QEMU. `kernel`: more keys of the machine type's; `more`: as ever. */
export function inQemu(kernel: object = {}, more: RigOptions = {}): RigOptions {
  if (typeof guest === 'string') throw new Error(guest);
  return {
    ram: '2G',
    template: { path: SHELL_TEMPLATE, parameters: PARAMETERS },
    ...more,
    driver: 'qemu',
    machine: { kernel: { path: guest.kernel, initrd: guest.initrd, ...kernel }, ...more.machine },
  };
}

export const PARAMETERS: Readonly<Record<string, string>> = {
  GITLAB_RUNNER: 'gitlab-runner',
  BOOT_GATE: '',
};

/** A copy of the shell template in a directory of the test's, with other or more files. */
export async function templateWith(
  directory: string,
  files: Readonly<Record<string, string>>,
): Promise<string> {
  const template = path.join(directory, 'shell-template');
  await cp(SHELL_TEMPLATE, template, { recursive: true });
  for (const [name, text] of Object.entries(files)) {
    await mkdir(path.dirname(path.join(template, name)), { recursive: true });
    await writeFile(path.join(template, name), text);
  }
  return template;
}

/** The row of a job that has ended on the host. */
export const endedInVm = (rig: Rig, job: SimJob): Promise<JobRow> =>
  eventually(
    `job ${job.name} to have ended on the host`,
    () => rig.status().history.find((row) => row.id === String(job.id)),
    BOOT_MS,
  );
