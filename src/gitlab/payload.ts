/** What we read of a claimed job: loosely, since its bytes go to the guest untouched. */

import * as v from 'valibot';

/** The few facts of a job that we act on or show. */
export interface JobFacts {
  readonly id: number;
  readonly token: string;
  readonly name: string;
  /** Full path of the project; its id as text where GitLab is too old to tell. */
  readonly project: string;
  readonly ref: string;
  readonly url: string | null;
  /** Seconds; the runner's own default where GitLab tells none. */
  readonly timeoutSeconds: number;
  /** Whose artifacts this job may fetch, each with the token to do so. */
  readonly dependencies: readonly { readonly id: number; readonly token: string }[];
  /** Failure reasons that this GitLab knows by name. */
  readonly failureReasons: readonly string[];
  /** Whether the ref is protected; false where GitLab is too old to tell. */
  readonly protected: boolean;
  /** Where the guest clones from, without credentials, or null. */
  readonly repoUrl: string | null;
}

/** Parts of a payload that must not be shown: kept in memory only, for masking. */
export interface JobSecrets {
  /** Values of masked variables and the job's tokens. */
  readonly values: readonly string[];
  /** Whatever starts with one of these is a token. */
  readonly prefixes: readonly string[];
}

/** How the job had waited when it was claimed; null where GitLab does not tell. */
export interface JobQueue {
  readonly seconds: number | null;
  /** How many jobs of its project the instance's runners had: a number up to some limit, else `+Inf`. */
  readonly projectJobsRunning: string | null;
}

export type ReadPayload =
  | {
      readonly ok: true;
      readonly facts: JobFacts;
      readonly secrets: JobSecrets;
      readonly queue: JobQueue;
    }
  | {
      readonly ok: false;
      readonly reason: string;
      /** Enough to end it; null: nobody can. */
      readonly left: BareJob | null;
    };

/** What is left of a job whose payload was cut off or changed on its way. */
export type BareJob = Pick<JobFacts, 'id' | 'token'>;

/** What gitlab-runner takes where a job names no timeout. */
const RUNNER_DEFAULT_TIMEOUT_S = 7200;

/** A default in place of whatever has an unexpected shape: a new GitLab must not stop a job. */
function loosely<T>(
  schema: v.GenericSchema<unknown, T>,
  otherwise: T,
): v.GenericSchema<unknown, T> {
  return v.fallback(v.optional(schema, otherwise as never), otherwise as never) as v.GenericSchema<
    unknown,
    T
  >;
}

const List = <T>(item: v.GenericSchema<unknown, T>): v.GenericSchema<unknown, T[]> =>
  v.pipe(
    v.array(v.unknown()),
    v.transform((items) =>
      items.flatMap((entry) => {
        const result = v.safeParse(item, entry);
        return result.success ? [result.output] : [];
      }),
    ),
  );

const Text = v.string();
/** GitLab's go up to 2^63, on paper: 2^53 is a million jobs a second for 285 years. A larger one would be misread. */
const Id = v.pipe(v.number(), v.safeInteger(), v.minValue(1));

const Variable = v.object({ key: Text, value: Text, masked: loosely(v.boolean(), false) });
const Dependency = v.object({ id: Id, token: Text });

const Payload = v.object({
  id: Id,
  token: v.pipe(Text, v.minLength(1)),
  job_info: loosely(
    v.object({
      name: loosely(Text, ''),
      project_full_path: loosely(Text, ''),
      project_id: loosely(v.number(), 0),
      time_in_queue_seconds: loosely(v.nullable(v.number()), null),
      project_jobs_running_on_instance_runners_count: loosely(v.nullable(Text), null),
    }),
    {
      name: '',
      project_full_path: '',
      project_id: 0,
      time_in_queue_seconds: null,
      project_jobs_running_on_instance_runners_count: null,
    },
  ),
  git_info: loosely(
    v.object({
      ref: loosely(Text, ''),
      repo_url: loosely(Text, ''),
      protected: loosely(v.nullable(v.boolean()), null),
    }),
    { ref: '', repo_url: '', protected: null },
  ),
  runner_info: loosely(v.object({ timeout: loosely(v.number(), 0) }), { timeout: 0 }),
  variables: loosely(List(Variable), []),
  dependencies: loosely(List(Dependency), []),
  features: loosely(
    v.object({
      failure_reasons: loosely(List(Text), []),
      token_mask_prefixes: loosely(List(Text), []),
    }),
    { failure_reasons: [], token_mask_prefixes: [] },
  ),
});

/** Id and token stand at the very beginning of GitLab's. */
const BEGINNING = /^\ufeff?\s*\{\s*"id"\s*:\s*([1-9][0-9]{0,15})\s*,\s*"token"\s*:\s*"([^"\\]+)"/;

/** Reads a 201's body. Fails only where it is no JSON, or holds no id or no token. */
export function readPayload(bytes: Buffer): ReadPayload {
  let json: unknown;
  try {
    json = JSON.parse(bytes.toString('utf8'));
  } catch {
    const [, id, token] = BEGINNING.exec(bytes.toString('utf8', 0, 4096)) ?? [];
    const left =
      token !== undefined && Number.isSafeInteger(Number(id)) ? { id: Number(id), token } : null;
    return { ok: false, reason: `${bytes.length} bytes that are not JSON`, left };
  }
  const parsed = v.safeParse(Payload, json);
  if (!parsed.success) {
    // Only paths: valibot's messages repeat what was received, and that may be a token.
    const paths = parsed.issues.map((issue) => v.getDotPath(issue) ?? 'the whole');
    return { ok: false, reason: `no usable ${paths.join(', ')} in it`, left: null };
  }
  const { output } = parsed;
  const variable = (key: string): string | undefined =>
    output.variables.findLast((candidate) => candidate.key === key)?.value;
  return {
    ok: true,
    facts: {
      id: output.id,
      token: output.token,
      name: output.job_info.name || `job ${output.id}`,
      project:
        output.job_info.project_full_path ||
        variable('CI_PROJECT_PATH') ||
        String(output.job_info.project_id),
      ref: output.git_info.ref,
      url: variable('CI_JOB_URL') ?? null,
      timeoutSeconds:
        output.runner_info.timeout > 0 ? output.runner_info.timeout : RUNNER_DEFAULT_TIMEOUT_S,
      dependencies: output.dependencies,
      failureReasons: output.features.failure_reasons,
      protected: output.git_info.protected === true,
      repoUrl: withoutCredentials(output.git_info.repo_url),
    },
    secrets: {
      values: [
        output.token,
        ...output.dependencies.map((dependency) => dependency.token),
        ...output.variables.filter((candidate) => candidate.masked).map((found) => found.value),
      ],
      prefixes: output.features.token_mask_prefixes,
    },
    queue: {
      seconds: output.job_info.time_in_queue_seconds,
      projectJobsRunning: output.job_info.project_jobs_running_on_instance_runners_count,
    },
  };
}

function withoutCredentials(repoUrl: string): string | null {
  if (!URL.canParse(repoUrl)) return null;
  const url = new URL(repoUrl);
  url.username = '';
  url.password = '';
  return url.href;
}
