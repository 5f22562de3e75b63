/** Whether a body of that type is a page for people. */
export function isPage(contentType: string | null | undefined): boolean {
  return /^(?:text\/html|application\/xhtml\+xml)\b/i.test(contentType ?? '');
}
