/** From the command's arguments to a benchmark's report and the exit code. */

import { parseArgs } from 'node:util';
import type { Bench, BenchReport, Figure } from './bench.ts';

/** Loads a benchmark only where it is run, so that one that cannot load spoils no other. */
export type BenchTable = Readonly<Record<string, () => Promise<{ readonly bench: Bench }>>>;

export interface Output {
  out(text: string): void;
  error(text: string): void;
}

/** 0: every goal is met. 1: one is missed, or the benchmark failed. 2: wrong use. */
export async function runBench(
  args: readonly string[],
  benches: BenchTable,
  output: Output,
): Promise<0 | 1 | 2> {
  const asked = readArgs(args, benches);
  if ('problem' in asked) {
    output.error(`${asked.problem}\nnpm run bench -- --help says more.\n`);
    return 2;
  }
  if (asked.help) {
    output.out(await usage(benches));
    return 0;
  }
  try {
    const { bench } = await asked.load();
    const progress = asked.json ? () => undefined : (line: string) => output.error(`${line}\n`);
    const report = await bench.run(progress);
    const met = report.goals.every((goal) => goal.met !== false);
    output.out(asked.json ? toJson(asked.name, met, report) : toText(report));
    return met ? 0 : 1;
  } catch (error) {
    output.error(`the benchmark ${asked.name} failed: ${describe(error)}\n`);
    return 1;
  }
}

type Asked =
  | { readonly help: true }
  | {
      readonly help: false;
      readonly name: string;
      readonly json: boolean;
      readonly load: BenchTable[string];
    };

function readArgs(args: readonly string[], benches: BenchTable): Asked | { problem: string } {
  const names = Object.keys(benches).join(', ');
  try {
    const { values, positionals } = parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        json: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    });
    if (values.help) return { help: true };
    const [name, ...more] = positionals;
    if (name === undefined || more.length > 0) return { problem: `name one benchmark: ${names}` };
    const load = Object.hasOwn(benches, name) ? benches[name] : undefined;
    if (load === undefined)
      return { problem: `no benchmark of the name ${name}; there is: ${names}` };
    return { help: false, name, json: values.json, load };
  } catch (error) {
    return { problem: error instanceof Error ? error.message : String(error) };
  }
}

async function usage(benches: BenchTable): Promise<string> {
  const lines: string[] = [];
  for (const [name, load] of Object.entries(benches)) {
    const summary = await load().then(
      ({ bench }) => bench.summary,
      (error: unknown) => `cannot be loaded: ${describe(error)}`,
    );
    lines.push(`  ${name.padEnd(12)} ${summary}`);
  }
  return `npm run bench -- NAME [--json]

Runs one benchmark: our figures beside a peer's from the same run. Exits 1 where a goal is missed.

${lines.join('\n')}

  --json   one JSON object on standard output, and nothing else
  --help   this text
`;
}

function toJson(name: string, met: boolean, report: BenchReport): string {
  const figures = report.figures.map((figure) => ({ ...figure, ratio: ratioOf(figure) }));
  return `${JSON.stringify({ bench: name, met, ...report, figures })}\n`;
}

/** Ours as a multiple of the peer's. */
function ratioOf({ ours, peer }: Figure): number | null {
  return peer === null || peer === 0 ? null : ours / peer;
}

function toText({ peer, figures, goals }: BenchReport): string {
  const rows = [
    ['', 'ours', `peer: ${peer}`, 'ratio', 'direct', ''],
    ...figures.map((figure) => [
      figure.what,
      show(figure.ours),
      show(figure.peer),
      show(ratioOf(figure)),
      show(figure.direct ?? null),
      figure.unit,
    ]),
  ];
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  );
  const lines = rows.map((row) =>
    row
      .map((cell, column) =>
        column === 0 || column === row.length - 1
          ? cell.padEnd(widths[column] ?? 0)
          : cell.padStart(widths[column] ?? 0),
      )
      .join('  ')
      .trimEnd(),
  );
  const verdicts = goals.map(
    ({ what, measured, met }) =>
      `${met === null ? 'not measured' : met ? 'met   ' : 'MISSED'}  ${what}: ${measured}`,
  );
  return `${[...lines, '', ...verdicts].join('\n')}\n`;
}

function show(value: Figure['peer']): string {
  if (value === null) return '-';
  return value.toLocaleString('en', { maximumSignificantDigits: 4 });
}

function describe(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
