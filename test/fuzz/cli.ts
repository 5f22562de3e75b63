/** `npm run fuzz`: raw bytes and mutated real exchanges against the proxy. */

import { parseArgs } from 'node:util';
import { reportFailure, UsageError } from '../../fixtures/lib/wrong-use.ts';
import { type FuzzReport, fuzz } from './fuzz.ts';

const USAGE = `npm run fuzz -- [--seed N] [--seconds N] [--json]

Fires raw bytes and mutated calls of real gitlab-runners at a host with the plugin, out of one of its
machines. Exits 1 where something crashes, leaks, or reaches GitLab that is not the machine's to say.

  --seed N      the same seed makes the same cases (default: one by chance)
  --seconds N   for so long (default: 30)
  --json        one JSON object on standard output, and nothing else
`;

function readNumber(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0)
    throw new UsageError(`--${name} ${text}: must be a whole number`);
  return value;
}

function toText(report: FuzzReport): string {
  const answers = Object.entries(report.answers).map(([status, count]) => `${status}: ${count}`);
  return `${report.cases} cases in ${report.seconds} s, ${report.upstream} calls at GitLab, ${report.jobs} jobs
answers: ${answers.join(', ')}
grown: heap ${report.heapGrowthMib} MiB, ${report.descriptorGrowth} descriptors
${report.violations.length === 0 ? 'no violation' : report.violations.join('\n')}
`;
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
      seconds: { type: 'string', default: '30' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    process.stdout.write(USAGE);
    return 0;
  }
  const seed = readNumber('seed', values.seed);
  const seconds = readNumber('seconds', values.seconds);
  const again = `npm run fuzz -- --seed ${seed} --seconds ${seconds}`;
  const report = await fuzz({ seed, seconds });
  process.stdout.write(
    values.json ? `${JSON.stringify({ ...report, again })}\n` : `${toText(report)}${again}\n`,
  );
  return report.violations.length === 0 ? 0 : 1;
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    process.exit(reportFailure(error, 'npm run fuzz'));
  },
);
