/** What must be known of a warm machine after a restart: it lies in the machine's metadata. */

import * as v from 'valibot';
import type { JsonValue } from '../contract/index.ts';

export interface WarmFacts {
  /** The configured runner that it is for. */
  readonly runner: string;
  /** Opens our `jobs/request` for it, and nothing else before there is a job. */
  readonly vmToken: string;
  /** A digest of what it was booted with. */
  readonly settings: string;
  /** From where it was told to clone. */
  readonly cloneUrl: string;
  /** When it is too old: monotonic, ms. */
  readonly retireAt: number;
}

const Metadata = v.object({
  runner: v.string(),
  warm: v.object({
    vmToken: v.string(),
    settings: v.string(),
    cloneUrl: v.string(),
    retireAt: v.number(),
  }),
});

export function toMetadata({ runner, ...warm }: WarmFacts): JsonValue {
  return { runner, warm };
}

/** Null where the machine was booted for a job. */
export function readMetadata(metadata: JsonValue): WarmFacts | null {
  const { success, output } = v.safeParse(Metadata, metadata);
  return success ? { runner: output.runner, ...output.warm } : null;
}
