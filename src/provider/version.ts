/** The version of this package, as its package.json has it. */

import { createRequire } from 'node:module';

let version: string | null = null;

/** Read once, through the package's own name, so that it is found from `src` and from `dist` alike. */
export function packageVersion(): string {
  version ??= readVersion();
  return version;
}

function readVersion(): string {
  const manifest: unknown = createRequire(import.meta.url)('forrest-gitlab/package.json');
  const found =
    typeof manifest === 'object' && manifest !== null ? Reflect.get(manifest, 'version') : null;
  return typeof found === 'string' ? found : '0.0.0';
}
