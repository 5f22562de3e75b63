/** Asking GitLab for jobs: one claimer per configured runner. */

export { Backoff } from './backoff.ts';
export { Claimer } from './claimer.ts';
export type { ClaimerServices } from './services.ts';
export { createWebhookHandler } from './webhook.ts';
