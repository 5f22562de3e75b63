/** Which features we advertise when asking for a job: what the guest's runner can do. */

/** `info.features` of a request: what a runner with its executor can do. */
export type Features = Readonly<Record<string, boolean>>;

/** What every shell of the official runner can do, whatever the executor. */
const COMMON = {
  variables: true,
  artifacts: true,
  cache: true,
  fallback_cache_keys: true,
  upload_multiple_artifacts: true,
  upload_raw_artifacts: true,
  refspecs: true,
  masking: true,
  raw_variables: true,
  artifacts_exclude: true,
  multi_build_steps: true,
  trace_reset: true,
  trace_checksum: true,
  trace_size: true,
  vault_secrets: true,
  cancelable: true,
  return_exit_code: true,
  cancel_gracefully: true,
  proxy: false,
} as const;

/** Only what needs no newer runner than 15.11, so that the first claim promises nothing too much. */
const BY_EXECUTOR = {
  shell: {
    ...COMMON,
    shared: true,
    image: false,
    services: false,
    service_variables: false,
    service_multiple_aliases: false,
    image_executor_opts: false,
    service_executor_opts: false,
    native_steps_integration: false,
    job_inputs: false,
  },
  docker: {
    ...COMMON,
    shared: false,
    image: true,
    services: true,
    service_variables: true,
    service_multiple_aliases: true,
    image_executor_opts: false,
    service_executor_opts: false,
    native_steps_integration: false,
    job_inputs: false,
  },
} as const;

/** No terminal reaches into a VM, and GitLab withdrew the two-phase commit. */
const ALWAYS_OFF = { session: false, terminal: false, two_phase_job_commit: false } as const;

/** The features to advertise: what a guest's runner has told, else a table for the executor. */
export function advertisedFeatures(
  executor: 'shell' | 'docker',
  learned: Features | undefined,
): Features {
  return { ...BY_EXECUTOR[executor], ...learned, ...ALWAYS_OFF };
}

/** Of what a guest sent as its features, the part that we understand. */
export function knownFeatures(sent: unknown): Features | undefined {
  if (typeof sent !== 'object' || sent === null) return undefined;
  const known: Record<string, boolean> = {};
  for (const key of Object.keys(BY_EXECUTOR.shell)) {
    const value: unknown = (sent as Record<string, unknown>)[key];
    // A runner that does not name a feature of its time does not have it.
    known[key] = value === true;
  }
  // Every runner since 15.0 acts on `canceling`, also those too old to say so.
  return { ...known, cancel_gracefully: true };
}
