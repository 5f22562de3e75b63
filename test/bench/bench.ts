/** What a benchmark is and what it reports. Each one is a file beside this, listed in `cli.ts`. */

/** One figure of ours, beside the peer's from the same run. */
export interface Figure {
  /** What was measured, and under what load: `decision, 10,000 waiting`. */
  readonly what: string;
  /** `ms`, `µs`, `/s`, `MiB`. */
  readonly unit: string;
  readonly ours: number;
  /** Null where there is nothing to compare with. */
  readonly peer: number | null;
  /** What the load reaches with neither of them in its way, where that can be measured. */
  readonly direct?: number | null;
}

/** What had to be reached, and what was. */
export interface Goal {
  /** `freed room to the next boot, p99 below 5 ms`. */
  readonly what: string;
  /** What was measured, in words: `0.8 ms`. */
  readonly measured: string;
  /** Null: it cannot be measured here, and `measured` says why. */
  readonly met: boolean | null;
}

export interface BenchReport {
  /** What ours is compared with, in a few words. */
  readonly peer: string;
  readonly figures: readonly Figure[];
  readonly goals: readonly Goal[];
}

export interface Bench {
  /** One line for `--help`. */
  readonly summary: string;
  /** `progress` may be called with a line for people at any time. */
  run(progress: (line: string) => void): Promise<BenchReport>;
}

/** The value below which that share of the samples lies: `quantile(samples, 0.99)`. */
export function quantile(samples: readonly number[], share: number): number {
  if (samples.length === 0) throw new Error('no samples');
  const sorted = Float64Array.from(samples).sort();
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0;
}
