/** The version of this package, as its package.json has it. */

import { createRequire } from 'node:module';

/** Read through the package's own name, so that it is found from `src` and from `dist` alike. */
export function packageVersion(): string {
  const manifest: unknown = createRequire(import.meta.url)('forrest-gitlab/package.json');
  const version =
    typeof manifest === 'object' && manifest !== null ? Reflect.get(manifest, 'version') : null;
  return typeof version === 'string' ? version : '0.0.0';
}
