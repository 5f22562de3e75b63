/** A rig whose virtual machines have a disk of their own. */

import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { TestContext } from 'node:test';
import { createRig, type Rig } from './rig.ts';
import { inQemu, PARAMETERS, SHELL_TEMPLATE, templateWith } from './vm.ts';

export const TOKEN: string = 'keep-this-disk-7Jw';

export const NO_GIT: readonly { key: string; value: string }[] = [
  { key: 'GIT_STRATEGY', value: 'none' },
];

/** What a job does to say which disk it has, and to change it. */
export const DISK: readonly string[] = [
  'mkdir -p /mnt/disk && mount -t ext4 /dev/vda /mnt/disk',
  'echo "disk of generation $(cat /mnt/disk/generation)"',
  'expr $(cat /mnt/disk/generation) + 1 > /mnt/disk/next && mv /mnt/disk/next /mnt/disk/generation',
  'umount /mnt/disk',
];

export const persist = (token: string): string => `printf '%s\\n' '${token}' > /mnt/job/persist`;

/**
 * A host whose machines have a disk with a file system, made from an image of generation 1. `keys`: of their type;
 * by default their disks may be kept.
 */
export async function rigWithDisk(
  t: TestContext,
  start = '',
  keys: object = { persistence_token: TOKEN },
): Promise<{ rig: Rig; base: string; images: string; image: string }> {
  const directory = await mkdtemp(path.join(tmpdir(), 'forrest-disks-'));
  const content = path.join(directory, 'content');
  await mkdir(content);
  await writeFile(path.join(content, 'generation'), '1\n');
  const base = path.join(directory, 'base.img');
  await writeFile(base, '');
  await truncate(base, 8 * 1024 * 1024);
  execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', '-d', content, base]);
  const script = await readFile(path.join(SHELL_TEMPLATE, 'job-config/job.sh'), 'utf8');
  const template = await templateWith(directory, {
    'cloud-init/meta-data': 'local-hostname: <MACHINE_NAME>-<COLOUR>\n',
    'cloud-init/user-data': '#cloud-config\n',
    'snapshot/user-data': '#cloud-config\n',
    'job-config/job.sh': start + script,
  });
  const rig = await createRig(
    t,
    inQemu(
      {},
      {
        ram: '3G',
        machine: { base_image: base, disk: '16M', ...keys },
        template: { path: template, parameters: { ...PARAMETERS, COLOUR: 'green' } },
      },
    ),
  );
  t.after(() => rm(directory, { recursive: true, force: true }));
  const images = path.join(rig.directory, 'base/machines/_');
  return { rig, base, images, image: path.join(images, 'small.img') };
}
