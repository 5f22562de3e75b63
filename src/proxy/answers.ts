/** Fixed answers of our own, in GitLab's shape: what a guest is told never holds inner details. */

/** In GitLab's words; the runner logs them. */
const MESSAGES = {
  400: '400 Bad request',
  403: '403 Forbidden',
  404: '404 Not Found',
  413: '413 Request Entity Too Large',
  500: '500 Internal Server Error',
} as const;

/** The error body of a status. */
export function refusalBody(status: keyof typeof MESSAGES): string {
  return JSON.stringify({ message: MESSAGES[status] });
}

function refusal(status: keyof typeof MESSAGES): Response {
  const headers = { 'content-type': 'application/json' };
  return new Response(refusalBody(status), { status, headers });
}

/** Made anew each time: a Response can be sent once. */
export const answers = {
  /** For any token that is not a live machine's, and any job that is not its own. */
  forbidden: (): Response => refusal(403),
  notFound: (): Response => refusal(404),
  badRequest: (): Response => refusal(400),
  tooLarge: (): Response => refusal(413),
  serverError: (): Response => refusal(500),
  /** Never 403 on jobs/request: it puts the official runner to sleep for five minutes. */
  noJob: (): Response => new Response(null, { status: 204 }),
} as const;
