/** Fixed answers of our own, in GitLab's shape: what a guest is told never holds inner details. */

/** GitLab's error body; the runner logs its message. */
function refusal(status: number, message: string): Response {
  return Response.json({ message }, { status });
}

/** Made anew each time: a Response can be sent once. */
export const answers = {
  /** For any token that is not a live machine's, and any job that is not its own. */
  forbidden: (): Response => refusal(403, '403 Forbidden'),
  notFound: (): Response => refusal(404, '404 Not Found'),
  badRequest: (): Response => refusal(400, '400 Bad request'),
  tooLarge: (): Response => refusal(413, '413 Request Entity Too Large'),
  badGateway: (): Response => refusal(502, '502 Bad Gateway'),
  serverError: (): Response => refusal(500, '500 Internal Server Error'),
  /** Never 403 on jobs/request: it puts the official runner to sleep for five minutes. */
  noJob: (): Response => new Response(null, { status: 204 }),
} as const;
