/** Asking GitLab for jobs: one claimer per configured runner. */

export { Backoff } from './backoff.ts';
export { Claimer, type ClaimerServices } from './claimer.ts';
export { createWebhookHandler } from './webhook.ts';
