/** The route table (design §6): all that a machine may call. Anything else is refused here. */

export interface Route {
  /** For log and metrics. */
  readonly name: RouteName;
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH';
  /** Below `/<vm token>/api/v4`; `:id` is the job's. */
  readonly path: string;
  readonly check: Check;
  readonly handling: Handling;
}

export type RouteName =
  | 'jobs-request'
  | 'runners-verify'
  | 'update'
  | 'trace'
  | 'artifacts-upload'
  | 'artifacts-download'
  | 'runtime-environment-key';

export type Check =
  /** The VM token in the path, and in the body where it is named there. */
  | 'vm-token'
  /** And: the job in the path and its token are the lease's own. */
  | 'own-job'
  /** And: the job and its token are the lease's own, or those of one of its `dependencies`. */
  | 'own-job-or-dependency';

export type Handling =
  /** Nothing goes to GitLab. */
  | 'answered-here'
  /** Its body is read, since it names token and state; repeated while GitLab is out; the final one is watched. */
  | 'update'
  /** Small bodies are kept, to be repeated while GitLab is out; a large one is streamed. */
  | 'trace'
  /** Streamed to GitLab; broken off in the middle, its runner is asked for it again. */
  | 'upload'
  /** Has no body; repeated until GitLab answers, then streamed to the guest. */
  | 'download';

const JOB = '/jobs/:id';

export const ROUTES: readonly Route[] = [
  {
    name: 'jobs-request',
    method: 'POST',
    path: '/jobs/request',
    check: 'vm-token',
    handling: 'answered-here',
  },
  {
    name: 'runners-verify',
    method: 'POST',
    path: '/runners/verify',
    check: 'vm-token',
    handling: 'answered-here',
  },
  { name: 'update', method: 'PUT', path: JOB, check: 'own-job', handling: 'update' },
  { name: 'trace', method: 'PATCH', path: `${JOB}/trace`, check: 'own-job', handling: 'trace' },
  {
    name: 'artifacts-upload',
    method: 'POST',
    path: `${JOB}/artifacts`,
    check: 'own-job',
    handling: 'upload',
  },
  {
    name: 'artifacts-download',
    method: 'GET',
    path: `${JOB}/artifacts`,
    check: 'own-job-or-dependency',
    handling: 'download',
  },
  {
    name: 'runtime-environment-key',
    method: 'GET',
    path: `${JOB}/runtime_environment_key`,
    check: 'own-job',
    handling: 'download',
  },
];

const OF_JOBS = new Map<string, Route>(
  ROUTES.filter(({ path }) => path.startsWith(JOB)).map((route) => [
    `${route.method} ${route.path.slice(JOB.length)}`,
    route,
  ]),
);

/** What GitLab calls its jobs; no leading zero. What a number would not hold is none that was claimed. */
const JOB_PATH = /^jobs\/([1-9][0-9]{0,15})(|\/[a-z_]+)$/;

/** The route of a job's call: by its method, and its path below the API. */
export function findJobRoute(
  method: string,
  path: string,
): { readonly route: Route; readonly jobId: number } | undefined {
  const [, id, rest = ''] = JOB_PATH.exec(path) ?? [];
  const jobId = Number(id);
  const route = Number.isSafeInteger(jobId) ? OF_JOBS.get(`${method} ${rest}`) : undefined;
  return route && { route, jobId };
}

/** What GitLab is asked for: the path of a checked call below its API. */
export function upstreamPath(route: Route, jobId: number): string {
  return `/api/v4/jobs/${jobId}${route.path.slice(JOB.length)}`;
}
