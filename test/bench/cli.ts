/** `npm run bench -- NAME`: one benchmark. */

import { endAllWhenInterrupted } from './interrupt.ts';
import { type BenchTable, runBench } from './run-bench.ts';

const BENCHES: BenchTable = {
  boot: () => import('./boot.ts'),
  dashboard: () => import('./dashboard.ts'),
  flood: () => import('./flood.ts'),
  host: () => import('./host/index.ts'),
  pickup: () => import('./pickup/index.ts'),
  pool: () => import('./pool.ts'),
  'qemu-options': () => import('./qemu-options.ts'),
  proxy: () => import('./proxy/index.ts'),
  recovery: () => import('./recovery.ts'),
};

endAllWhenInterrupted();
process.exitCode = await runBench(process.argv.slice(2), BENCHES, {
  out: (text) => process.stdout.write(text),
  error: (text) => process.stderr.write(text),
});
