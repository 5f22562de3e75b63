/** Our last words in a job's log: why it ended, and the end of its machine's console. */

import type { JobSecrets } from '../gitlab/index.ts';

const MASK = '[MASKED]';

/** Shorter masked values would blank out half of a console. GitLab itself asks for 8. */
const MIN_MASKED_LENGTH = 6;

/** What starts like this is a token, whoever made it. */
const TOKEN_PREFIXES = ['glrt-', 'glrtr-', 'glcbt-', 'glpat-', 'gldt-', 'glptt-', 'GR1348941'];

/** How much of the console goes to the log, in characters. */
const TAIL_LENGTH = 8 * 1024;

/** What a host hands over at most: such a console has lost its beginning. */
const MAX_CONSOLE_BYTES = 64 * 1024;

export interface NoteOptions {
  /** One or more sentences for the job's owner. */
  readonly reason: string;
  readonly runnerName: string;
  /** The console's end, or null where it is not to be shown. */
  readonly console: Uint8Array | null;
  /** Null after a restart: then nobody knows what to mask, and the console stays out. */
  readonly secrets: JobSecrets | null;
  /** Wall clock in ms. */
  readonly now: number;
}

/** The text to append, with the console in a collapsed section. */
export function composeNote(options: NoteOptions): string {
  const { reason, runnerName, console, secrets } = options;
  const headline = `\n\u001b[0K\u001b[31;1mERROR: ${reason}\u001b[0;m\n`;
  if (console === null || console.length === 0) return headline;
  if (secrets === null) {
    return `${headline}The console of ${runnerName} is not shown: after the host's restart nobody knows what to mask in it.\n`;
  }
  const seconds = Math.floor(options.now / 1000);
  const text = lastLines(maskSecrets(firstLineCut(console), secrets));
  return (
    headline +
    `section_start:${seconds}:machine_console[collapsed=true]\r\u001b[0KConsole of ${runnerName}\n` +
    `${text}\n` +
    `section_end:${seconds}:machine_console\r\u001b[0K\n`
  );
}

/** What begins somewhere in the middle may begin in the middle of a secret, which nothing would find. */
function firstLineCut(console: Uint8Array): string {
  const text = Buffer.from(console).toString('utf8');
  return console.length < MAX_CONSOLE_BYTES
    ? text
    : text.slice(text.indexOf('\n') + 1 || text.length);
}

/** Cut only after masking, and at a line's beginning. */
function lastLines(text: string): string {
  const trimmed = text.trimEnd();
  if (trimmed.length <= TAIL_LENGTH) return trimmed;
  const tail = trimmed.slice(-TAIL_LENGTH);
  return tail.slice(tail.indexOf('\n') + 1);
}

/** Replaces every masked value, and every word that begins like a token. */
export function maskSecrets(text: string, secrets: JobSecrets): string {
  let masked = text;
  // Longest first: a value may contain another one.
  const values = secrets.values.flatMap((value) => [value, ...value.split(/\r?\n/)]);
  for (const value of values.toSorted((a, b) => b.length - a.length)) {
    if (value.trim().length >= MIN_MASKED_LENGTH) masked = masked.replaceAll(value, MASK);
  }
  const prefixes = [...TOKEN_PREFIXES, ...secrets.prefixes].filter((prefix) => prefix !== '');
  const words = new RegExp(`(${prefixes.map(RegExp.escape).join('|')})[A-Za-z0-9_.=-]+`, 'g');
  return masked.replace(words, `$1${MASK}`);
}
