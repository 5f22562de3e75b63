/** The plugin's log: tslog masks what must not be seen, the host's logger writes it. */

import { type ILogObj, Logger as MaskingLogger } from 'tslog';
import type { LogFields, Logger } from '../contract/index.ts';
import { describeError } from '../lib/errors.ts';

/** What is a secret wherever it stands in a text. */
const SECRETS = [
  // GitLab's tokens, by their prefixes.
  /\b(?:gl[a-z]{2,8}-|GR1348941)[\w.-]{8,}/g,
  // Credentials in an address: older job tokens have no prefix.
  /(?<=:\/\/[^\s/@:]{0,64}:)[^\s/@]+(?=@)/g,
  // A JWT.
  /\beyJ[\w-]{8,}(?:\.[\w-]+){1,2}/g,
];

const SECRET_KEYS = [
  'token',
  'authorization',
  'job-token',
  'runner-token',
  'private-token',
  'password',
  'secret',
];

/** A logger in front of the host's, through which no token passes. */
export function createMaskingLog(
  host: Logger,
  counted: (level: 'warning' | 'error') => void,
): Logger {
  const masking = new MaskingLogger<ILogObj>({
    type: 'hidden',
    minLevel: 'DEBUG',
    stack: { capture: 'off' },
    mask: { keys: SECRET_KEYS, caseInsensitive: true, regex: SECRETS },
  });
  masking.attachTransport({
    name: 'host',
    minLevel: 'DEBUG',
    format: 'json',
    write(_record: unknown, line: string) {
      pass(host, line);
    },
  });
  const at =
    (level: Level) =>
    (message: string, fields: LogFields = {}): void => {
      if (isPlain(message, fields)) host[level](message, fields);
      else masking[level](message, flatten(fields));
    };
  return {
    debug: at('debug'),
    info: at('info'),
    warn(message, fields) {
      counted('warning');
      at('warn')(message, fields);
    },
    error(message, fields) {
      counted('error');
      at('error')(message, fields);
    },
    child: (fields) => createMaskingLog(host.child(fields), counted),
  };
}

/** Stands in every text that holds one of {@link SECRETS}. */
const SUSPECT = /gl[a-z]{2,8}-|GR1348941|:\/\/|eyJ/;

/** Whether nothing in it could need masking: looking costs more than the call that is logged. */
function isPlain(message: string, fields: LogFields): boolean {
  if (SUSPECT.test(message)) return false;
  for (const key in fields) {
    const value = fields[key];
    if (SECRET_KEYS.includes(key.toLowerCase())) return false;
    if (typeof value === 'string' && SUSPECT.test(value)) return false;
    if (typeof value === 'object' && value !== null) return false;
  }
  return true;
}

/** tslog drops an error that is nested in a fields object: its text is what counts. */
function flatten(fields: LogFields): Record<string, unknown> {
  const flat: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(fields)) {
    flat[key] = value instanceof Error ? describeError(value) : value;
  }
  return flat;
}

type Level = 'debug' | 'info' | 'warn' | 'error';

function pass(host: Logger, line: string): void {
  const {
    message,
    level,
    levelId: _,
    time: __,
    _logMeta: ___,
    ...fields
  } = JSON.parse(line) as Record<string, unknown>;
  const name = String(level).toLowerCase();
  const method: Level = name === 'debug' || name === 'info' || name === 'warn' ? name : 'error';
  host[method](String(message), fields);
}
