/** What the host's `check` command asks of us: is GitLab there, are the tokens good, can guests come in. */

import { type GitlabConfig, type RunnerConfig, readTokenFile } from '../config/index.ts';
import type { CheckContext, Finding } from '../contract/index.ts';
import type { ObservedCall, VerifyOutcome } from '../gitlab/index.ts';
import type { Clock } from '../lib/clock.ts';
import { describeError } from '../lib/errors.ts';
import type { Randomness } from '../lib/random.ts';
import type { Fetch } from '../upstream/index.ts';
import { createGitlabAccess, type GitlabAccess, runnerInfo } from './gitlab-access.ts';
import { loadSystemId } from './system-id.ts';
import { EXPIRY_WARNING_MS } from './token-expiry.ts';

export interface CheckSeams extends Randomness {
  readonly clock: Clock;
  readonly fetch: Fetch | undefined;
}

/** Asks as the claimers do, so that GitLab sees no other host. Changes nothing but the last contact there. */
export async function* checkConfig(
  config: GitlabConfig,
  seams: CheckSeams,
  context: CheckContext,
): AsyncIterable<Finding> {
  yield await checkListen(config, context);
  yield* checkAddresses(config);
  const warnings: string[] = [];
  const log = { warn: (message: string): void => void warnings.push(message) };
  let systemId: string;
  try {
    systemId = await loadSystemId(context.stateDir, context.hostName, seams, log);
  } catch (error) {
    yield {
      severity: 'error',
      subject: `state directory ${context.stateDir}`,
      message: `this host's system_id cannot be kept there: ${describeError(error)}`,
      remedy: 'make it writable for the user who runs the host; GitLab was not asked',
    };
    return;
  }
  for (const message of warnings) {
    yield { severity: 'warning', subject: `state directory ${context.stateDir}`, message };
  }
  const access = createGitlabAccess(config, seams.clock, context.proxyEnv, seams.fetch);
  try {
    yield* checkRunners(config, access, systemId, seams.clock, context.signal);
  } finally {
    access.health.close();
    access.upstream.close();
  }
}

async function checkListen(config: GitlabConfig, context: CheckContext): Promise<Finding> {
  const subject = `gitlab.listen ${config.listen}`;
  const obstacle = await context.canListen('guests', config.listen);
  return obstacle === null
    ? { severity: 'ok', subject, message: 'guests can be listened to' }
    : {
        severity: 'error',
        subject,
        message: obstacle,
        remedy: 'choose another address:port, or stop the program that has it',
      };
}

/** What guests cannot reach, as far as an address tells. */
function* checkAddresses(config: GitlabConfig): Iterable<Finding> {
  const virtual = config.runners.some(({ machineType }) => machineType.hostAddress !== '127.0.0.1');
  if (!virtual) return;
  const listening = config.listen.replace(/:\d+$/, '');
  if (!isLoopback(listening) && !/^(0\.0\.0\.0|\[::\])$/.test(listening)) {
    yield {
      severity: 'error',
      subject: `gitlab.listen ${config.listen}`,
      message: "guests come in by this host's loopback, where that is not listened on",
      remedy: 'use 127.0.0.1 and a port',
    };
  }
  if (config.cloneUrl === null && isLoopback(new URL(config.url).hostname)) {
    yield {
      severity: 'warning',
      subject: `gitlab.url ${config.url}`,
      message:
        'to a guest that address is the guest itself, and it clones from where GitLab says it is',
      remedy: `if clones fail, set gitlab.clone_url to an address of this GitLab that guests reach, such as http://10.0.2.2:PORT`,
    };
  }
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '[::1]' || /^127\./.test(host);
}

async function* checkRunners(
  config: GitlabConfig,
  access: GitlabAccess,
  systemId: string,
  clock: Clock,
  signal: AbortSignal,
): AsyncIterable<Finding> {
  let answered = false;
  for (const runner of config.runners) {
    if (signal.aborted) return;
    const subject = `gitlab.runners: ${runner.name}`;
    const read = await readTokenFile(runner.tokenFile);
    if (!read.ok) {
      const message = `the token file ${runner.tokenFile} ${read.reason}`;
      yield {
        severity: 'error',
        subject,
        message,
        remedy: 'put the token alone into it, mode 0600',
      };
      continue;
    }
    let call: ObservedCall | undefined;
    const client = access.clientFor((observed) => {
      call = observed;
    });
    const outcome = await client.verifyRunner(read.token, systemId, runnerInfo(runner, undefined));
    if (call?.answer == null) {
      // As it is for one runner, it is for all.
      yield unreachable(config, outcome, call?.failure ?? null);
      return;
    }
    const { headers } = call.answer;
    if (outcome.kind === 'retry') {
      yield strange(config, outcome.reason, headers);
      return;
    }
    if (!answered) {
      answered = true;
      yield { severity: 'ok', subject: `gitlab.url ${config.url}`, message: 'GitLab answers' };
      yield* checkTime(headers.get('date'), clock.now());
    }
    yield ofToken(runner, subject, outcome, clock.now());
  }
}

const TLS_FAILURES: Readonly<Record<string, readonly [message: string, remedy: string]>> = {
  DEPTH_ZERO_SELF_SIGNED_CERT: [
    'its certificate is signed by itself',
    'name it, or the authority behind it, as gitlab.ca_file',
  ],
  SELF_SIGNED_CERT_IN_CHAIN: [
    'its certificate is from an authority that is not trusted here',
    "name that authority's certificate as gitlab.ca_file",
  ],
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: [
    'its certificate is from an authority that is not trusted here',
    "name that authority's certificate as gitlab.ca_file, or have GitLab send its whole chain",
  ],
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: [
    'its certificate is from an authority that is not trusted here',
    "name that authority's certificate as gitlab.ca_file",
  ],
  CERT_HAS_EXPIRED: ['its certificate has expired', 'renew it on GitLab; is the clock here right?'],
  CERT_NOT_YET_VALID: ['its certificate is not valid yet', 'is the clock of this host right?'],
  ERR_TLS_CERT_ALTNAME_INVALID: [
    'its certificate is for another name',
    'use the name that stands in the certificate as gitlab.url',
  ],
  EPROTO: ['it does not speak TLS there', 'is it http instead of https, or another port?'],
};

const NETWORK_FAILURES: Readonly<Record<string, readonly [message: string, remedy: string]>> = {
  ENOTFOUND: ['there is no such host name', 'correct gitlab.url, or the DNS of this host'],
  EAI_AGAIN: ['the host name cannot be looked up', 'is the DNS of this host working?'],
  ECONNREFUSED: ['nothing listens there', 'is GitLab running, and the port right?'],
  ECONNRESET: ['the connection was cut', 'is it https instead of http, or is a proxy in between?'],
  EHOSTUNREACH: ['there is no way to that host', 'check network and firewall'],
  ENETUNREACH: ['there is no way to that network', 'check network and firewall'],
  ETIMEDOUT: ['it does not answer in time', 'check network, firewall and HTTPS_PROXY'],
  upstream_timeout: ['it does not answer in time', 'check network, firewall and HTTPS_PROXY'],
};

function unreachable(config: GitlabConfig, outcome: VerifyOutcome, code: string | null): Finding {
  const [message, remedy] = TLS_FAILURES[code ?? ''] ??
    NETWORK_FAILURES[code ?? ''] ?? [
      outcome.kind === 'retry' ? outcome.reason : 'no answer',
      'can this host open that address, with curl for example?',
    ];
  const what = code !== null && code in TLS_FAILURES ? 'TLS fails' : 'GitLab cannot be reached';
  return {
    severity: 'error',
    subject: `gitlab.url ${config.url}`,
    message: `${what}: ${message}${code === null ? '' : ` (${code})`}`,
    remedy,
  };
}

/** Something answers, but not as GitLab does. */
function strange(config: GitlabConfig, reason: string, headers: Headers): Finding {
  const subject = `gitlab.url ${config.url}`;
  if (/^429\b/.test(reason)) {
    return {
      severity: 'error',
      subject,
      message: `GitLab, or a box before it, takes no more calls of this host for now: ${reason}`,
      remedy: "try again in a minute; if it stays, raise GitLab's rate limits for runners",
    };
  }
  const location = headers.get('location');
  return {
    severity: 'error',
    subject,
    message: `no GitLab answers there: ${reason}`,
    remedy:
      location !== null && URL.canParse(location)
        ? `it points to ${new URL(location).origin}: use that address`
        : /^50[234]\b/.test(reason)
          ? 'is GitLab up? What answers may be a proxy before it'
          : /^40[13]\b/.test(reason)
            ? 'a firewall or a sign-in before GitLab refuses this host: have it let it through to /api/v4'
            : 'the address of GitLab is the one of its start page, a path such as /gitlab included',
  };
}

const NOTICEABLE_SKEW_MS = 60_000;
const HARMFUL_SKEW_MS = 5 * 60_000;

/** By the Date header, which has whole seconds. */
function* checkTime(date: string | null, now: number): Iterable<Finding> {
  const subject = 'clock';
  const theirs = Date.parse(date ?? '');
  if (Number.isNaN(theirs)) return;
  const skewMs = Math.abs(now - theirs);
  const apart = `${Math.round(skewMs / 1000)} s ${now > theirs ? 'ahead of' : 'behind'} GitLab's`;
  if (skewMs < NOTICEABLE_SKEW_MS) {
    yield { severity: 'ok', subject, message: "as GitLab's" };
    return;
  }
  yield {
    severity: skewMs < HARMFUL_SKEW_MS ? 'warning' : 'error',
    subject,
    message: `the clock of this host is ${apart}: certificates and ID tokens of jobs may be refused, times are wrong`,
    remedy: 'run a time service here and on GitLab (systemd-timesyncd, chrony)',
  };
}

function ofToken(
  runner: RunnerConfig,
  subject: string,
  outcome: Exclude<VerifyOutcome, { kind: 'retry' }>,
  now: number,
): Finding {
  if (outcome.kind === 'forbidden') {
    return {
      severity: 'error',
      subject,
      message: `GitLab refuses the token in ${runner.tokenFile}: ${outcome.reason}`,
      remedy:
        'it was revoked, has expired, or is of another GitLab: make a runner there and put its new token into the file',
    };
  }
  const features = Object.values(runnerInfo(runner, undefined).features).filter(Boolean).length;
  const asks = `asks as executor ${runner.executor.name} with ${features} features`;
  const { tokenExpiresAt } = outcome;
  if (tokenExpiresAt === null) {
    return { severity: 'ok', subject, message: `its token is good and does not expire; ${asks}` };
  }
  const left = tokenExpiresAt.getTime() - now;
  return {
    severity: left > EXPIRY_WARNING_MS ? 'ok' : 'warning',
    subject,
    message: `its token is good until ${tokenExpiresAt.toISOString()}; ${asks}`,
    ...(left <= EXPIRY_WARNING_MS && {
      remedy: 'make a new one in time: the file is read again when it changes',
    }),
  };
}
