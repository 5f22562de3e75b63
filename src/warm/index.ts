/** Warm machines: booted before there is a job for them, each with its runner waiting in our `jobs/request`. */

export { toMetadata, type WarmFacts } from './metadata.ts';
export type { WarmServices, Wish } from './services.ts';
export type { WarmCause, WarmMachine } from './warm-machine.ts';
export { WarmMachines } from './warm-machines.ts';
