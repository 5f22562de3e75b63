/** The section's shape as a valibot schema: field by field; what spans fields is in parse-config. */

import * as v from 'valibot';
import type { PullPolicy } from './config.ts';
import { DEFAULT_TIMINGS } from './timings.ts';

/** What a person writes. Kept apart from what the plugin uses: units, files and references resolve later. */
export interface RawRunner {
  name: string;
  token_file: string;
  machine: string;
  executor: 'shell' | 'docker';
  docker_image?: string | undefined;
  docker_helper_image?: string | undefined;
  docker_privileged?: boolean | undefined;
  docker_pull_policy?: PullPolicy[] | undefined;
  docker_registry_mirror?: string | undefined;
  limit: number;
  output_limit: number;
  warm: number;
  persist: 'protected' | 'always' | 'never';
}

export interface RawSection {
  url: string;
  listen: string;
  ca_file?: string | undefined;
  clone_url?: string | undefined;
  check_interval: number;
  console_tail: boolean;
  webhook_secret_file?: string | undefined;
  runners: RawRunner[];
  timings: Record<string, number>;
}

const UNITS = { s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;

const text = (what: string) =>
  v.pipe(v.string(`must be ${what}`), v.nonEmpty(`must be ${what}, and is empty`));

const httpUrl = (what: string) =>
  v.pipe(
    text(what),
    v.check(
      (value) => isPlainHttpUrl(value),
      `must be ${what}: http or https, no user, query or #`,
    ),
  );

const count = (least: number, most: number) => {
  const message = `must be a whole number from ${least} to ${most}`;
  return v.pipe(
    v.number(message),
    v.integer(message),
    v.minValue(least, message),
    v.maxValue(most, message),
  );
};

const DURATION = 'must be a duration such as 3s, 5m, 1h or 1d';

const duration = v.pipe(
  v.string(DURATION),
  v.regex(/^\d{1,6}[smhd]$/, DURATION),
  v.transform((value) => Number(value.slice(0, -1)) * UNITS[value.slice(-1) as keyof typeof UNITS]),
  v.minValue(1000, 'must be at least 1s'),
);

const flag = v.boolean('must be true or false');

const PULL_POLICY = 'must be always, if-not-present or never, or a list of them';

const pullPolicy = v.picklist(['always', 'if-not-present', 'never']);

/** One policy, or a list in the order in which they are tried. */
const pullPolicies = v.pipe(
  v.union([pullPolicy, v.array(pullPolicy)], PULL_POLICY),
  v.transform((value) => (typeof value === 'string' ? [value] : value)),
  v.minLength(1, PULL_POLICY),
  v.check((list) => new Set(list).size === list.length, 'names a policy twice'),
);

const RUNNER_NAME = 'must be 1 to 32 letters, digits, - or _, such as build';
const LISTEN = 'must be address:port, such as 127.0.0.1:8090';
const PORT = 'must have a port of at most 65535';

const runnerEntries = {
  name: v.pipe(v.string(RUNNER_NAME), v.regex(/^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$/, RUNNER_NAME)),
  token_file: text('the path of a file that holds the runner token'),
  machine: text('the name of a machine type under machines'),
  executor: v.optional(v.picklist(['shell', 'docker'], 'must be shell or docker'), 'shell'),
  docker_image: v.optional(text('the image for jobs that name none')),
  docker_helper_image: v.optional(text('an image name')),
  docker_privileged: v.optional(flag),
  docker_pull_policy: v.optional(pullPolicies),
  docker_registry_mirror: v.optional(httpUrl('the address of a registry mirror')),
  limit: v.optional(count(1, 1000), 1),
  output_limit: v.optional(count(1, 4 * 1024 * 1024), 4096),
  warm: v.optional(count(0, 100), 0),
  persist: v.optional(
    v.picklist(['protected', 'always', 'never'], 'must be protected, always or never'),
    'protected',
  ),
};

const sectionEntries = {
  url: httpUrl('the address of GitLab, such as https://gitlab.example.com'),
  listen: v.optional(
    v.pipe(
      v.string(LISTEN),
      v.regex(/^(\[[0-9a-fA-F:]+\]|[^\s:/]+):\d{1,5}$/, LISTEN),
      v.check(hasPort, PORT),
    ),
    '127.0.0.1:8090',
  ),
  ca_file: v.optional(text('the path of a PEM file')),
  clone_url: v.optional(httpUrl('the address that guests clone from')),
  check_interval: v.optional(duration, '3s'),
  console_tail: v.optional(flag, true),
  webhook_secret_file: v.optional(text('the path of a file')),
  runners: v.pipe(
    v.array(v.object(runnerEntries, 'must be a mapping'), 'must be a list of runners'),
    v.minLength(1, 'must have at least one runner'),
  ),
  timings: v.optional(v.record(v.string(), count(1, 86_400_000), 'must be a mapping'), {}),
};

/** Unknown keys are looked for apart from it: valibot would report just the first of each object. */
export const Section: v.GenericSchema<unknown, RawSection> = v.object(
  sectionEntries,
  'must be a mapping',
);

export const SECTION_KEYS: readonly string[] = Object.keys(sectionEntries);
export const RUNNER_KEYS: readonly string[] = Object.keys(runnerEntries);
export const TIMING_KEYS: readonly string[] = Object.keys(DEFAULT_TIMINGS);

/** Of what is no number, the form is wrong, and that is said. */
function hasPort(address: string): boolean {
  return !(Number(address.slice(address.lastIndexOf(':') + 1)) > 65_535);
}

function isPlainHttpUrl(value: string): boolean {
  if (!URL.canParse(value)) return false;
  const url = new URL(value);
  return (
    (url.protocol === 'http:' || url.protocol === 'https:') &&
    url.username === '' &&
    url.password === '' &&
    url.search === '' &&
    url.hash === ''
  );
}
