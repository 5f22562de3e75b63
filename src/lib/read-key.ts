/** Looking into what others sent. */

/** An own property of whatever it is; undefined where there is none. */
export function readKey(value: unknown, key: string): unknown {
  return typeof value === 'object' && value !== null && Object.hasOwn(value, key)
    ? Reflect.get(value, key)
    : undefined;
}
