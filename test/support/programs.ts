/** What is installed on this machine. */

import { existsSync } from 'node:fs';
import path from 'node:path';

export function isInstalled(...programs: readonly string[]): boolean {
  const directories = (process.env['PATH'] ?? '').split(path.delimiter);
  return programs.every((program) =>
    directories.some((directory) => existsSync(path.join(directory, program))),
  );
}
