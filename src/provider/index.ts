/** The provider as a host gets it. */

export { createPlugin, type Seams } from './plugin.ts';
