/** The answers at the door, as bytes: the same to everyone, and cheaper than what they answer. */

const TEXTS = {
  400: 'Bad Request',
  403: 'Forbidden',
  404: 'Not Found',
  408: 'Request Timeout',
  414: 'URI Too Long',
  415: 'Unsupported Media Type',
  417: 'Expectation Failed',
  429: 'Too Many Requests',
  431: 'Request Header Fields Too Large',
  505: 'HTTP Version Not Supported',
} as const;

export type RefusedStatus = keyof typeof TEXTS | 204;

/** Each of them ends its connection. */
export const refusals: Readonly<Record<RefusedStatus, Uint8Array>> = {
  204: Buffer.from('HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n'),
  400: refusal(400),
  403: refusal(403),
  404: refusal(404),
  408: refusal(408),
  414: refusal(414),
  415: refusal(415),
  417: refusal(417),
  429: refusal(429, 'Retry-After: 1\r\n'),
  431: refusal(431),
  505: refusal(505),
};

/** What a connection that stays is told of a refusal. */
export function bodyOf(status: keyof typeof TEXTS): string {
  return JSON.stringify({ message: `${status} ${TEXTS[status]}` });
}

function refusal(status: keyof typeof TEXTS, headers = ''): Uint8Array {
  const body = bodyOf(status);
  return Buffer.from(
    `HTTP/1.1 ${status} ${TEXTS[status]}\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n${headers}Connection: close\r\n\r\n${body}`,
  );
}
