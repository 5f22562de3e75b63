/** `Retry-After`, in both of its forms. */

/** In ms from now; undefined where it is missing or means nothing. */
export function readRetryAfter(value: string | null | undefined): number | undefined {
  if (value === null || value === undefined) return undefined;
  if (/^\d+$/.test(value)) return Number(value) * 1000;
  const date = Date.parse(value);
  return Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}
