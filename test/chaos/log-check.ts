/** Whether a job's log is what its script printed, to the byte, with nothing of ours but one note at its end. */

import { plainLog } from '../../fixtures/main-job/log-lines.ts';
import { MARK } from './jobs.ts';
import type { JobFacts } from './judge.ts';

/** How our own last words begin, and no runner's. */
export const NOTE = '\n\u001b[0K\u001b[31;1mERROR: ';

/** What is noted of a job whose journal entry was damaged on purpose. */
export const JOURNAL_DAMAGED = 'its journal entry was damaged';

/** A line's time stamp of which only a part has come. */
const PART_OF_STAMP = /^\n?(?:\d[\d\-T:.]*Z?(?: \d{0,2}[OE]?[ +]?)?)?$/;

type Logged = Pick<
  JobFacts,
  'log' | 'logIntact' | 'expected' | 'status' | 'failureReason' | 'canceled' | 'disturbances'
>;

/** Null, or what is wrong. */
export function checkLog(job: Logged): string | null {
  const raw = job.log.toString('latin1');
  const noteAt = raw.indexOf(NOTE);
  const byRunner = isByRunner(job);
  if (byRunner && !job.logIntact) return 'it is not what its runner has sent';
  // With its journal entry a host may lose that it has said why already: then it says that, too.
  const most = job.disturbances.includes(JOURNAL_DAMAGED) ? 2 : 1;
  const notes = raw.split(NOTE).length - 1;
  if (notes > most) return `our note is in it ${notes} times`;
  if (byRunner && noteAt >= 0) return 'our note is in it although its runner ended it';
  const isOurs = job.status === 'failed' && job.failureReason === 'runner_system_failure';
  if (isOurs && noteAt < 0 && !raw.includes('ERROR: Job failed (system failure)')) {
    return 'nothing in it says why it failed';
  }
  const head = noteAt < 0 ? job.log : job.log.subarray(0, noteAt);
  if (noteAt >= 0 && raw.includes(MARK, noteAt)) return 'the script goes on after our note';
  return checkOutput(plainLog(head), job, byRunner);
}

/** Whether its script has ended, and its runner has said so. */
function isByRunner({ status, failureReason }: Logged): boolean {
  return status === 'success' || (status === 'failed' && failureReason === 'script_failure');
}

function checkOutput(plain: string, job: Logged, whole: boolean): string | null {
  const { output, transfers } = job.expected;
  // A download that failed is, to the runner, the script's failure: the script has not begun.
  const mayBeMissing = transfers && job.disturbances.length > 0;
  const from = plain.indexOf(MARK);
  const found = from < 0 ? '' : plain.slice(from);
  const same = commonLength(found, output);
  const rest = found.slice(same);
  if (rest.includes(MARK)) return `other bytes than the script's after ${same} of its output`;
  if (same === output.length) return null;
  if (whole && !(mayBeMissing && job.status === 'failed')) {
    return `only ${same} of ${output.length} bytes of the script's output`;
  }
  // Who is canceled or ends itself still says so; of one that was cut off nothing else can come.
  const cutOff = job.status === 'failed' && plain.length === from + found.length && !job.canceled;
  return cutOff && from >= 0 && !isEndOf(rest) ? 'something else within the output' : null;
}

/** What may follow output that stops in the middle: nothing, or words of the runner. */
function isEndOf(rest: string): boolean {
  const words = rest.trimStart();
  return PART_OF_STAMP.test(rest) || words.startsWith('\u001b') || words.startsWith('section_');
}

function commonLength(a: string, b: string): number {
  const end = Math.min(a.length, b.length);
  for (let at = 0; at < end; at++) if (a[at] !== b[at]) return at;
  return end;
}
