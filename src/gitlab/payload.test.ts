import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { readPayload } from './payload.ts';

const read = (job: unknown) => readPayload(Buffer.from(JSON.stringify(job)));

describe('a job payload', () => {
  it('yields what we act on', () => {
    const result = read({
      id: 900123,
      token: 'glcbt-job',
      job_info: { name: 'unit', project_full_path: 'acme/demo', project_id: 4 },
      git_info: {
        ref: 'main',
        repo_url: 'https://gitlab-ci-token:glcbt-job@host.test/acme/demo.git',
        protected: true,
      },
      runner_info: { timeout: 90 },
      variables: [
        {
          key: 'CI_JOB_URL',
          value: 'https://host.test/acme/demo/-/jobs/900123',
          public: true,
          masked: false,
        },
        { key: 'KEY', value: 'hunter2', public: false, masked: true },
      ],
      dependencies: [
        { id: 9, name: 'build', token: 'glcbt-job', artifacts_file: { filename: 'a.zip' } },
      ],
      features: { failure_reasons: ['runner_interrupted'], token_mask_prefixes: ['acme-'] },
    });
    assert.ok(result.ok);
    assert.deepEqual(result.facts, {
      id: 900123,
      token: 'glcbt-job',
      name: 'unit',
      project: 'acme/demo',
      ref: 'main',
      url: 'https://host.test/acme/demo/-/jobs/900123',
      timeoutSeconds: 90,
      dependencies: [{ id: 9, token: 'glcbt-job' }],
      failureReasons: ['runner_interrupted'],
      protected: true,
      repoUrl: 'https://host.test/acme/demo.git',
    });
    assert.deepEqual(result.secrets, {
      values: ['glcbt-job', 'glcbt-job', 'hunter2'],
      prefixes: ['acme-'],
    });
  });

  it('of any other shape is still a job: id and token suffice', () => {
    const odd = {
      id: 1,
      token: 'x',
      job_info: 3,
      git_info: null,
      runner_info: [],
      variables: { a: 1 },
      dependencies: [null, { id: 'x' }],
      features: 'no',
    };
    for (const job of [{ id: 1, token: 'x' }, odd]) {
      const result = read(job);
      assert.ok(result.ok);
      assert.equal(result.facts.timeoutSeconds, 7200);
      assert.deepEqual(result.facts.dependencies, []);
      assert.equal(result.facts.protected, false);
    }
  });

  it('without a usable id or token says which, and never what it was', () => {
    assert.deepEqual(read({ id: '1', token: '' }), {
      ok: false,
      reason: 'no usable id, token in it',
      left: null,
    });
    // A number would hold another one.
    assert.deepEqual(read({ id: 2 ** 53, token: 'x' }), {
      ok: false,
      reason: 'no usable id in it',
      left: null,
    });
    assert.deepEqual(read(null), {
      ok: false,
      reason: 'no usable the whole in it',
      left: null,
    });
    assert.deepEqual(readPayload(Buffer.from('<html>')), {
      ok: false,
      reason: '6 bytes that are not JSON',
      left: null,
    });
  });

  it('that was cut off, or has got something before it, leaves id and token to end the job with', () => {
    const left = { id: 900123, token: 'glcbt-64_x' };
    for (const [text, expected] of [
      ['{"id":900123,"token":"glcbt-64_x","allow_', left],
      ['{ "id": 900123,\n  "token": "glcbt-64_x"', left],
      ['\ufeff{"id":900123,"token":"glcbt-64_x"}', left],
      ['{"id":9007199254740991,"token":"x"', { id: Number.MAX_SAFE_INTEGER, token: 'x' }],
      ['{"id":9007199254740993,"token":"x"', null],
      ['{"id":900123,"token":"glcbt-64', null],
      ['{"job":{"id":900123,"token":"glcbt-64_x",', null],
    ] as const) {
      const read = readPayload(Buffer.from(text));
      assert.deepEqual(read.ok ? 'whole' : read.left, expected, text);
    }
  });
});
