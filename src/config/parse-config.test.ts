import assert from 'node:assert/strict';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { temporaryDirectory, writePrivate } from '../../test/support/files.ts';
import type { ConfigContext, MachineType, Problem } from '../contract/index.ts';
import { DEFAULT_TIMINGS, parseConfig } from './index.ts';

const debian: MachineType = {
  name: 'debian',
  ramBytes: 1024 ** 3,
  architecture: 'amd64',
  hostAddress: '10.0.2.2',
};

async function contextFor(t: TestContext): Promise<{ dir: string; context: ConfigContext }> {
  const dir = await temporaryDirectory(t);
  await writePrivate(path.join(dir, 'build.token'), 'glrt-abcdefghijklmnopqrst\n');
  const context: ConfigContext = {
    file: path.join(dir, 'config.yaml'),
    machineType: (name) => (name === 'debian' ? debian : undefined),
  };
  return { dir, context };
}

const runner = { name: 'build', token_file: 'build.token', machine: 'debian' };
const section = { url: 'https://gitlab.example.com/', runners: [runner] };

async function problemsOf(t: TestContext, input: unknown): Promise<readonly Problem[]> {
  const { context } = await contextFor(t);
  const parsed = await parseConfig(input, context);
  assert.ok(!parsed.ok, 'must be refused');
  return parsed.problems;
}

describe('a gitlab section', () => {
  it('needs little: the rest has defaults', async (t) => {
    const { context, dir } = await contextFor(t);
    const parsed = await parseConfig(section, context);
    assert.ok(parsed.ok);
    assert.deepEqual(parsed.config, {
      url: 'https://gitlab.example.com',
      listen: '127.0.0.1:8090',
      ca: null,
      cloneUrl: null,
      webhookSecret: null,
      checkIntervalMs: 3000,
      consoleTail: true,
      runners: [
        {
          name: 'build',
          tokenFile: path.join(dir, 'build.token'),
          machineType: debian,
          executor: { name: 'shell' },
          limit: 1,
          warm: 0,
          outputLimitKib: 4096,
          persist: 'protected',
        },
      ],
      timings: DEFAULT_TIMINGS,
    });
    assert.ok(Object.isFrozen(parsed.config));
  });

  it('takes everything that the design shows', async (t) => {
    const { context } = await contextFor(t);
    const parsed = await parseConfig(
      {
        url: 'https://example.com/gitlab',
        listen: '[::1]:0',
        clone_url: 'http://mirror.example.com',
        check_interval: '2m',
        console_tail: false,
        runners: [
          {
            ...runner,
            executor: 'docker',
            docker_image: 'debian:12',
            docker_helper_image: 'helper',
            docker_privileged: true,
            docker_pull_policy: ['always', 'if-not-present'],
            docker_registry_mirror: 'https://mirror.example.com',
            limit: 4,
            warm: 2,
          },
        ],
        timings: { heartbeatMs: 50 },
      },
      context,
    );
    assert.ok(parsed.ok);
    assert.equal(parsed.config.checkIntervalMs, 120_000);
    assert.equal(parsed.config.timings.heartbeatMs, 50);
    assert.equal(parsed.config.runners[0]?.warm, 2);
    assert.deepEqual(parsed.config.runners[0]?.executor, {
      name: 'docker',
      image: 'debian:12',
      helperImage: 'helper',
      privileged: true,
      pullPolicies: ['always', 'if-not-present'],
      registryMirror: 'https://mirror.example.com',
    });
  });

  it('pulls images always, or as one policy says', async (t) => {
    const { context } = await contextFor(t);
    for (const [written, policies] of [
      [{}, ['always']],
      [{ docker_pull_policy: 'never' }, ['never']],
    ] as const) {
      const docker = { ...runner, executor: 'docker', docker_image: 'debian:12', ...written };
      const parsed = await parseConfig({ ...section, runners: [docker] }, context);
      assert.ok(parsed.ok);
      const { executor } = parsed.config.runners[0] ?? {};
      assert.deepEqual(executor?.name === 'docker' && executor.pullPolicies, policies);
    }
  });

  for (const [what, input, at, message] of [
    ['is no mapping', 'text', 'gitlab', /mapping/],
    ['is empty', null, 'gitlab', /mapping/],
    ['lacks the address', { runners: [runner] }, 'gitlab.url', /missing/],
    [
      'has an address of another kind',
      { ...section, url: 'file:///etc' },
      'gitlab.url',
      /http or https/,
    ],
    [
      'has credentials in the address',
      { ...section, url: 'https://me:pw@host' },
      'gitlab.url',
      /no user/,
    ],
    ['has no runner', { ...section, runners: [] }, 'gitlab.runners', /at least one/],
    ['has runners of another type', { ...section, runners: 'x' }, 'gitlab.runners', /list/],
    ['has an odd listener', { ...section, listen: '8090' }, 'gitlab.listen', /address:port/],
    ['has a port too high', { ...section, listen: 'a:65536' }, 'gitlab.listen', /at most 65535/],
    [
      'has a bare number as interval',
      { ...section, check_interval: 3 },
      'gitlab.check_interval',
      /3s/,
    ],
    ['has an unknown unit', { ...section, check_interval: '3w' }, 'gitlab.check_interval', /3s/],
    [
      'has an unknown timing',
      { ...section, timings: { heartbeat: 1 } },
      'gitlab.timings.heartbeat',
      /heartbeatMs/,
    ],
    [
      'has a limit of 0',
      { ...section, runners: [{ ...runner, limit: 0 }] },
      'gitlab.runners[0].limit',
      /1 to 1000/,
    ],
    [
      'has an unknown executor',
      { ...section, runners: [{ ...runner, executor: 'ssh' }] },
      'gitlab.runners[0].executor',
      /shell or docker/,
    ],
    [
      'has docker without an image',
      { ...section, runners: [{ ...runner, executor: 'docker' }] },
      'gitlab.runners[0].docker_image',
      /missing/,
    ],
    [
      'has docker keys for shell',
      { ...section, runners: [{ ...runner, docker_image: 'x' }] },
      'gitlab.runners[0].docker_image',
      /only for executor: docker/,
    ],
    [
      'has an unknown pull policy',
      {
        ...section,
        runners: [
          { ...runner, executor: 'docker', docker_image: 'x', docker_pull_policy: 'sometimes' },
        ],
      },
      'gitlab.runners[0].docker_pull_policy',
      /always, if-not-present or never/,
    ],
    [
      'has an unknown pull policy in a list',
      {
        ...section,
        runners: [
          { ...runner, executor: 'docker', docker_image: 'x', docker_pull_policy: ['always', 'x'] },
        ],
      },
      'gitlab.runners[0].docker_pull_policy',
      /always, if-not-present or never/,
    ],
    [
      'has an empty list of pull policies',
      {
        ...section,
        runners: [{ ...runner, executor: 'docker', docker_image: 'x', docker_pull_policy: [] }],
      },
      'gitlab.runners[0].docker_pull_policy',
      /always, if-not-present or never/,
    ],
    [
      'has one pull policy twice',
      {
        ...section,
        runners: [
          {
            ...runner,
            executor: 'docker',
            docker_image: 'x',
            docker_pull_policy: ['never', 'never'],
          },
        ],
      },
      'gitlab.runners[0].docker_pull_policy',
      /twice/,
    ],
    [
      'has a pull policy of another type',
      {
        ...section,
        runners: [{ ...runner, executor: 'docker', docker_image: 'x', docker_pull_policy: 5 }],
      },
      'gitlab.runners[0].docker_pull_policy',
      /or a list/,
    ],
    [
      'names an unknown machine type',
      { ...section, runners: [{ ...runner, machine: 'arch' }] },
      'gitlab.runners[0].machine',
      /'arch'/,
    ],
    [
      'names a token file that is not there',
      { ...section, runners: [{ ...runner, token_file: 'no' }] },
      'gitlab.runners[0].token_file',
      /does not exist/,
    ],
    [
      'has one name twice',
      { ...section, runners: [runner, runner] },
      'gitlab.runners[1].name',
      /already the name of runners\[0\]/,
    ],
    [
      'has one token twice',
      { ...section, runners: [runner, { ...runner, name: 'b' }] },
      'gitlab.runners[1].token_file',
      /same token as runners\[0\]/,
    ],
    [
      'wants more warm machines than its limit',
      { ...section, runners: [{ ...runner, warm: 2 }] },
      'gitlab.runners[0].warm',
      /2 is more than limit, 1/,
    ],
    [
      'names a webhook secret that is not there',
      { ...section, webhook_secret_file: 'x' },
      'gitlab.webhook_secret_file',
      /does not exist/,
    ],
    [
      'names a CA file that is none',
      { ...section, ca_file: 'build.token' },
      'gitlab.ca_file',
      /PEM/,
    ],
  ] as const) {
    it(`that ${what} is refused at ${at}`, async (t) => {
      const problems = await problemsOf(t, input);
      const found = problems.find((problem) => problem.path === at);
      assert.ok(found, JSON.stringify(problems));
      assert.match(found.message, message);
    });
  }

  it('is told all of its problems at once, every unknown key included', async (t) => {
    const problems = await problemsOf(t, {
      url: 5,
      intervall: '3s',
      urll: 'x',
      runners: [{ ...runner, limits: 4, machine: 'arch' }, { name: 'b b' }],
    });
    const paths = problems.map((problem) => problem.path).toSorted();
    assert.deepEqual(paths, [
      'gitlab.intervall',
      'gitlab.runners[0].limits',
      'gitlab.runners[0].machine',
      'gitlab.runners[1].machine',
      'gitlab.runners[1].name',
      'gitlab.runners[1].token_file',
      'gitlab.url',
      'gitlab.urll',
    ]);
  });

  it('never repeats a secret, not even one that was written where a file name belongs', async (t) => {
    const token = 'glrt-thisisarealtoken123';
    const problems = await problemsOf(t, {
      url: `https://x:${token}@host`,
      listen: token,
      runners: [{ name: token.repeat(3), token_file: token, machine: 'debian' }],
    });
    assert.doesNotMatch(JSON.stringify(problems), /thisisarealtoken/);
    assert.match(JSON.stringify(problems), /looks like a token itself/);
  });
});

describe('a token file', () => {
  it('may hold a token of any form, with a newline at its end', async (t) => {
    const { dir, context } = await contextFor(t);
    for (const token of [
      'glrt-t1_abcdefghij',
      'glrtr-abcdefghijklmnopqrst',
      'acme-glrt-abcdefghij',
      'abcdefghijklmnopqrst',
      'glrt-a.b.01.xyz',
    ]) {
      await writeFile(path.join(dir, 'build.token'), `${token}\n`);
      assert.ok((await parseConfig(section, context)).ok, token);
    }
  });

  for (const [what, content, mode, message] of [
    ['is readable by everyone', 'glrt-x', 0o644, /mode 0644.*chmod 600/],
    ['is empty', '\n', 0o600, /is empty/],
    ['holds two words', 'one two', 0o600, /more than one/],
    [
      'holds a personal access token',
      'glpat-notarunners1234567',
      0o600,
      /holds a personal access token \(glpat-…\): create a runner in GitLab .* glrt-…$/,
    ],
    [
      'holds a registration token',
      'GR1348941notarunners1234567',
      0o600,
      /holds a registration token \(GR1348941…\): create a runner in GitLab/,
    ],
  ] as const) {
    it(`that ${what} is refused`, async (t) => {
      const { dir, context } = await contextFor(t);
      await writeFile(path.join(dir, 'build.token'), content);
      await chmod(path.join(dir, 'build.token'), mode);
      const parsed = await parseConfig(section, context);
      assert.ok(!parsed.ok);
      assert.equal(parsed.problems[0]?.path, 'gitlab.runners[0].token_file');
      assert.match(parsed.problems[0]?.message ?? '', message);
      assert.doesNotMatch(JSON.stringify(parsed.problems), /notarunners/);
    });
  }

  it('that is a directory is refused', async (t) => {
    const { dir, context } = await contextFor(t);
    await mkdir(path.join(dir, 'd'), { mode: 0o700 });
    const parsed = await parseConfig(
      { ...section, runners: [{ ...runner, token_file: 'd' }] },
      context,
    );
    assert.ok(!parsed.ok);
    assert.match(parsed.problems[0]?.message ?? '', /not a regular file/);
  });
});
